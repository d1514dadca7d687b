//! A picture of guest memory: what the stream holds for each page number.

use std::io::{self, Write};

use serde::Serialize;

/// Number of cells. Each stands for so many pages, a power of two, that all of the guest's fit.
const CELLS: usize = 1 << 16;

/// Number of characters in a line of the picture. Each stands for one cell or more.
const COLUMNS: usize = 64;

/// Largest number of lines in the picture.
const ROWS: usize = 32;

/// Number of pixels in a line of the image.
const IMAGE_WIDTH: usize = 256;

/// The classes of pages that the picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shade {
    /// The stream names the page and has no contents for it: a hole, or a broken page.
    Hole,
    /// Contents that are all zero.
    Zero,
    /// Contents that the stream had before, for this page or another.
    Repeated,
    /// A page table of a PV guest.
    Table,
    /// Any other contents.
    Data,
    /// Contents in an iteration after the first: the guest wrote to the page meanwhile.
    Again,
}

const SHADES: [Shade; 6] =
    [Shade::Hole, Shade::Zero, Shade::Repeated, Shade::Table, Shade::Data, Shade::Again];

impl Shade {
    fn character(self) -> char {
        match self {
            Self::Hole => '·',
            Self::Zero => '░',
            Self::Repeated => '▒',
            Self::Table => '▓',
            Self::Data => '█',
            Self::Again => '▞',
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Zero => "zero",
            Self::Repeated => "seen before",
            Self::Table => "page table",
            Self::Data => "data",
            Self::Again => "sent again",
        }
    }

    /// Red, green and blue, 0 to 255.
    fn colour(self) -> [u32; 3] {
        match self {
            Self::Hole => [48, 48, 48],
            Self::Zero => [190, 205, 220],
            Self::Repeated => [70, 160, 90],
            Self::Table => [150, 80, 170],
            Self::Data => [40, 90, 180],
            Self::Again => [220, 60, 40],
        }
    }
}

/// The number of pages of each shade in a cell, in the order of [`SHADES`].
type Cell = [u32; SHADES.len()];

/// The classes of all pages, in memory of a fixed size.
pub struct Map {
    cells: Vec<Cell>,
    /// A cell stands for `1 << shift` pages.
    shift: u32,
    /// The highest page number so far.
    last_pfn: Option<u64>,
}

impl Default for Map {
    fn default() -> Self {
        Self { cells: vec![Cell::default(); CELLS], shift: 0, last_pfn: None }
    }
}

/// The picture in characters.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Picture {
    /// The characters and their meanings.
    pub legend: Vec<(char, &'static str)>,
    /// Number of pages for which a character stands.
    pub pages_per_character: u64,
    /// Number of pages for which a line stands.
    pub pages_per_line: u64,
    /// The lines, from page 0 on. A blank stands for pages that the stream does not name.
    pub lines: Vec<String>,
}

impl Map {
    pub fn page(&mut self, pfn: u64, shade: Shade) {
        while pfn >> self.shift >= CELLS as u64 {
            self.halve();
        }
        self.last_pfn = self.last_pfn.max(Some(pfn));
        let cell = self.cells.get_mut((pfn >> self.shift) as usize);
        if let Some(count) = cell.and_then(|cell| cell.get_mut(shade as usize)) {
            *count = count.saturating_add(1);
        }
    }

    /// Makes each cell stand for twice as many pages.
    fn halve(&mut self) {
        self.cells = self.cells.chunks(2).map(sum).collect();
        self.cells.resize(CELLS, Cell::default());
        self.shift += 1;
    }

    /// Cells up to the last page that was named.
    fn used(&self) -> &[Cell] {
        let used = self.last_pfn.map_or(0, |pfn| (pfn >> self.shift) as usize + 1);
        self.cells.get(..used).unwrap_or(&self.cells)
    }

    /// The picture in characters.
    pub fn picture(&self) -> Picture {
        let together = self.used().len().div_ceil(COLUMNS * ROWS).next_power_of_two();
        let shades: Vec<Option<Shade>> =
            self.used().chunks(together).map(|cells| shade(&sum(cells))).collect();
        let line = |shades: &[Option<Shade>]| {
            shades.iter().map(|shade| shade.map_or(' ', Shade::character)).collect()
        };
        let pages_per_character = (together as u64) << self.shift;
        Picture {
            legend: SHADES.iter().map(|shade| (shade.character(), shade.meaning())).collect(),
            pages_per_character,
            pages_per_line: pages_per_character.saturating_mul(COLUMNS as u64),
            lines: shades.chunks(COLUMNS).map(line).collect(),
        }
    }

    /// Writes the picture as an image, a PPM file: a pixel for each cell, 256 in a line, from the
    /// top left. Its colour is the mixture of its pages' colours, black if the stream names none.
    pub fn write_image(&self, mut out: impl Write) -> io::Result<()> {
        let height = self.used().len().div_ceil(IMAGE_WIDTH).max(1);
        let mut image = format!("P6\n{IMAGE_WIDTH} {height}\n255\n").into_bytes();
        image.extend(self.cells.iter().take(height * IMAGE_WIDTH).flat_map(colour));
        out.write_all(&image)
    }
}

fn sum(cells: &[Cell]) -> Cell {
    let mut sum = Cell::default();
    for cell in cells {
        sum.iter_mut().zip(cell).for_each(|(total, count)| *total = total.saturating_add(*count));
    }
    sum
}

/// Each shade with its number of pages in the cell.
fn counts(cell: &Cell) -> impl Iterator<Item = (Shade, u32)> {
    SHADES.into_iter().zip(*cell)
}

/// The shade of most pages. Holes count only if there is nothing else; none without any page.
fn shade(cell: &Cell) -> Option<Shade> {
    let named = || counts(cell).filter(|(_, count)| *count > 0);
    let most = named().filter(|(shade, _)| *shade != Shade::Hole).max_by_key(|(_, count)| *count);
    most.or_else(|| named().next()).map(|(shade, _)| shade)
}

fn colour(cell: &Cell) -> [u8; 3] {
    let pages: u64 = cell.iter().map(|&count| u64::from(count)).sum();
    let mut sums = [0_u64; 3];
    for (shade, count) in counts(cell) {
        let channels = sums.iter_mut().zip(shade.colour());
        channels.for_each(|(sum, colour)| *sum += u64::from(count) * u64::from(colour));
    }
    sums.map(|sum| sum.checked_div(pages).unwrap_or(0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_what_is_where() {
        let mut map = Map::default();
        (0..64).for_each(|pfn| map.page(pfn, Shade::Data));
        (128..160).for_each(|pfn| map.page(pfn, Shade::Zero));
        map.page(160, Shade::Hole);
        let picture = map.picture();
        assert_eq!((picture.pages_per_character, picture.pages_per_line), (1, 64));
        let lines = ["█".repeat(64), " ".repeat(64), format!("{}·", "░".repeat(32))];
        assert_eq!(picture.lines, lines);
    }

    #[test]
    fn it_is_small_however_far_the_pages_are_apart() {
        let mut map = Map::default();
        map.page(0, Shade::Data);
        map.page(3, Shade::Zero);
        map.page((1 << 52) - 1, Shade::Again);
        let picture = map.picture();
        assert_eq!(picture.lines.len(), ROWS);
        assert!(picture.lines[0].starts_with('█') || picture.lines[0].starts_with('░'));
        assert!(picture.lines[ROWS - 1].ends_with('▞'));
        assert_eq!(map.cells.iter().flatten().sum::<u32>(), 3);
        let mut image = Vec::new();
        map.write_image(&mut image).unwrap();
        assert!(image.starts_with(b"P6\n256 256\n255\n") && image.len() == 15 + 3 * CELLS);
        assert_eq!(image[image.len() - 3..], Shade::Again.colour().map(|channel| channel as u8));
    }
}
