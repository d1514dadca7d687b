//! A picture of guest memory: what the stream holds of it, by page number.

use std::io::{self, Write};

use serde::Serialize;

/// Cells kept. Each stands for as many pages as are needed for all of the guest's to fit: a power
/// of two.
const CELLS: usize = 1 << 16;

/// Characters in a line of the picture, each for one cell or more.
const COLUMNS: usize = 64;

/// Most lines of the picture.
const ROWS: usize = 32;

/// Pixels in a line of the image.
const IMAGE_WIDTH: usize = 256;

/// What a page is, as the picture shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shade {
    /// Named, without contents: a hole, or broken.
    Hole,
    /// All zero.
    Zero,
    /// Contents that have come before, at this page or another.
    Repeated,
    /// A page table of a PV guest.
    Table,
    /// Any other contents.
    Data,
    /// In an iteration after the first: it was written to meanwhile.
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

    /// Red, green, blue.
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

/// Pages of each shade in a cell.
type Cell = [u32; SHADES.len()];

/// What is known of each page, in fixed memory.
pub struct Map {
    cells: Vec<Cell>,
    /// A cell stands for 2 to the power of this pages.
    shift: u32,
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
    /// What the characters mean.
    pub legend: Vec<(char, &'static str)>,
    /// Pages for which a character stands.
    pub pages_per_character: u64,
    /// Pages for which a line stands.
    pub pages_per_line: u64,
    /// From page 0 on. A blank: the stream does not name any of these pages.
    pub lines: Vec<String>,
}

impl Map {
    /// Takes a page.
    pub fn page(&mut self, pfn: u64, shade: Shade) {
        while pfn >> self.shift >= CELLS as u64 {
            self.halve();
        }
        self.last_pfn = self.last_pfn.max(Some(pfn));
        let count = &mut self.cells[(pfn >> self.shift) as usize][shade as usize];
        *count = count.saturating_add(1);
    }

    /// Makes each cell stand for twice as many pages.
    fn halve(&mut self) {
        for index in 0..CELLS / 2 {
            self.cells[index] = added(&self.cells[2 * index..2 * index + 2]);
        }
        self.cells[CELLS / 2..].fill(Cell::default());
        self.shift += 1;
    }

    /// Cells up to the last page that was named.
    fn used(&self) -> &[Cell] {
        let used = self.last_pfn.map_or(0, |pfn| (pfn >> self.shift) as usize + 1);
        &self.cells[..used]
    }

    /// For people.
    pub fn picture(&self) -> Picture {
        let together = self.used().len().div_ceil(COLUMNS * ROWS).next_power_of_two();
        let shades: Vec<Option<Shade>> =
            self.used().chunks(together).map(|cells| shade(&added(cells))).collect();
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

    /// As an image, a PPM file: a pixel for each cell, 256 to a line, from the top left; its colour
    /// is the mixture of its pages' colours, black where the stream names none.
    pub fn write_image(&self, mut out: impl Write) -> io::Result<()> {
        let height = self.used().len().div_ceil(IMAGE_WIDTH).max(1);
        let mut image = format!("P6\n{IMAGE_WIDTH} {height}\n255\n").into_bytes();
        image.extend(self.cells[..height * IMAGE_WIDTH].iter().flat_map(colour));
        out.write_all(&image)
    }
}

fn added(cells: &[Cell]) -> Cell {
    let mut sum = Cell::default();
    for (total, index) in sum.iter_mut().zip(0..) {
        *total = cells.iter().fold(0, |total, cell: &Cell| total.saturating_add(cell[index]));
    }
    sum
}

/// What most pages are; holes count only where there is nothing else.
fn shade(cell: &Cell) -> Option<Shade> {
    let most = SHADES[1..].iter().max_by_key(|&&shade| cell[shade as usize]).copied();
    let named = |shade: &Shade| cell[*shade as usize] > 0;
    most.filter(named).or(Some(Shade::Hole).filter(named))
}

fn colour(cell: &Cell) -> [u8; 3] {
    let pages: u64 = cell.iter().map(|&count| u64::from(count)).sum();
    [0, 1, 2].map(|channel| {
        let weighted =
            |shade: &Shade| u64::from(cell[*shade as usize]) * u64::from(shade.colour()[channel]);
        (SHADES.iter().map(weighted).sum::<u64>().checked_div(pages).unwrap_or(0)) as u8
    })
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
