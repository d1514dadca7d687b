//! Writes the man pages and the shell completions: `cargo run --example man -- DIRECTORY`.
//!
//! Options, their help and the exit codes come from the command line's own definition
//! (`rxl::arguments`), so they cannot differ from what the program does. The text around them is in
//! `text.rs`.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use rxl::arguments::Cli;
use rxl_core::error::Exit;

#[path = "man/text.rs"]
mod text;

use text::{Block, Section};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: man DIRECTORY")?;
    write_pages(&directory.join("man1"))?;
    write_completions(&directory.join("completions"))
}

fn write_pages(directory: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(directory)?;
    for (name, page) in pages() {
        fs::write(directory.join(format!("{name}.1")), page)?;
    }
    Ok(())
}

fn write_completions(directory: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "rxl", directory)?;
    }
    Ok(())
}

/// The pages by name: `rxl`, and one for each subcommand and their subcommands.
fn pages() -> Vec<(String, String)> {
    let mut rxl = Cli::command().disable_help_subcommand(true);
    rxl.build();
    let version = rxl.get_version().unwrap_or_default();
    commands(&rxl).into_iter().map(|command| (page_name(command), page(command, version))).collect()
}

/// A command and all below it.
fn commands(command: &Command) -> Vec<&Command> {
    std::iter::once(command).chain(command.get_subcommands().flat_map(commands)).collect()
}

/// `rxl-migrate` of `rxl migrate`.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn page(command: &Command, version: &str) -> String {
    let name = page_name(command);
    // A synopsis shows every option, which the usage line of --help need not.
    let man = Man::new(command.clone().override_usage(Resettable::Reset));
    // By hand: clap_mangen would leave an empty date out, and the version would be taken for it.
    let mut page = format!(".TH {name} 1 \"\" \"rxl {version}\" \"Xen\"\n");
    page += &rendered(|out| man.render_name_section(out));
    page += &rendered(|out| man.render_synopsis_section(out));
    let sections = text::sections(&name);
    let (description, others): (Vec<_>, Vec<_>) =
        sections.iter().partition(|section| section.title == "DESCRIPTION");
    description.into_iter().for_each(|section| page += &section_page(section));
    if command.has_subcommands() {
        page += &rendered(|out| man.render_subcommands_section(out));
    }
    page += &rendered(|out| man.render_options_section(out));
    page += &exit_status();
    others.into_iter().for_each(|section| page += &section_page(section));
    page
}

fn rendered(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).expect("a vector takes everything");
    String::from_utf8(bytes).expect("all of it came from strings")
}

fn exit_status() -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (exit, meaning) in Exit::TABLE {
        roff.control("TP", []);
        roff.text([bold(exit.code().to_string())]);
        roff.text([roman(*meaning)]);
    }
    roff.render()
}

fn section_page(section: &Section) -> String {
    let mut roff = Roff::new();
    roff.control("SH", [section.title]);
    for block in section.blocks {
        add_block(&mut roff, block);
    }
    roff.render()
}

fn add_block(roff: &mut Roff, block: &Block) {
    match block {
        Block::Text(words) => {
            roff.control("PP", []);
            roff.text([roman(*words)]);
        }
        Block::Item(term, words) => {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*words)]);
        }
        Block::Example(words, command) => {
            roff.control("PP", []);
            roff.text([roman(*words)]);
            roff.control("PP", []);
            roff.control("RS", ["4"]);
            roff.text([bold(*command)]);
            roff.control("RE", []);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn subcommands() -> Vec<String> {
        let mut command = Cli::command();
        command.build();
        let all = commands(&command).into_iter().skip(1).map(page_name);
        all.filter(|name| !name.split('-').any(|word| word == "help")).collect()
    }

    #[test]
    fn every_subcommand_has_a_page() {
        let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        let expected = std::iter::once("rxl".to_owned()).chain(subcommands());
        assert_eq!(names, expected.collect::<Vec<_>>());
        assert!(names.contains(&"rxl-migrate".to_owned()), "{names:?}");
    }

    #[test]
    fn every_page_has_the_sections_of_a_man_page_in_order() {
        for (name, page) in pages() {
            let titles: Vec<&str> =
                page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            let wanted = [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "\"EXIT STATUS\"",
                "EXAMPLES",
                "\"SEE ALSO\"",
            ];
            let found: Vec<&str> =
                titles.iter().copied().filter(|title| wanted.contains(title)).collect();
            assert_eq!(found, wanted, "{name}: {titles:?}");
        }
    }

    #[test]
    fn every_page_has_every_exit_code() {
        for (name, page) in pages() {
            for (exit, meaning) in Exit::TABLE {
                let escaped = meaning.replace('-', "\\-");
                let entry = format!("\\fB{}\\fR\n{escaped}\n", exit.code());
                assert!(page.contains(&entry), "{name}: {entry}");
            }
        }
    }

    #[test]
    fn every_option_is_in_the_synopsis_and_among_the_options() {
        let (_, page) = pages().into_iter().find(|(name, _)| name == "rxl-migrate").unwrap();
        for option in
            ["\\-\\-dry\\-run", "\\-\\-non\\-live", "\\-\\-parallel\\-connections", "\\-s"]
        {
            assert!(page.matches(&format!("\\fB{option}")).count() >= 2, "{option}");
        }
        assert!(!page.contains("\\-\\-live\\fR"), "--live is hidden");
    }

    /// The words of a command line, as a shell would split them; a comment ends it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote, mut word) = (Vec::new(), None, None::<String>);
        for letter in line.chars() {
            match (quote, letter) {
                (Some(open), _) if open == letter => quote = None,
                (None, '\'' | '"') => (quote, word) = (Some(letter), word.or(Some(String::new()))),
                (None, ' ') => words.extend(word.take()),
                (None, '#') if word.is_none() => break,
                _ => word.get_or_insert_default().push(letter),
            }
        }
        words.extend(word);
        words
    }

    /// The commands of a line that are rxl's own. `[OPTION]` in a synopsis is taken as given.
    fn commands_of_rxl(line: &str) -> impl Iterator<Item = String> {
        let commands = line.split("&&").flat_map(|part| part.split('|')).map(str::trim);
        commands
            .filter(|command| command.starts_with("rxl "))
            .map(|command| command.replace(['[', ']'], ""))
    }

    fn examples(page: &str) -> Vec<String> {
        let blocks = text::sections(page).iter().flat_map(|section| section.blocks);
        let lines = blocks.filter_map(|block| match block {
            Block::Example(_, command) => Some(*command),
            _ => None,
        });
        lines.flat_map(commands_of_rxl).collect()
    }

    fn check_taken(place: &str, command: &str) {
        if let Err(error) = Cli::try_parse_from(words(command)) {
            panic!("{place}: {command}: {error}");
        }
    }

    #[test]
    fn every_example_of_the_man_pages_is_a_command_line_of_rxl() {
        for (name, _) in pages() {
            examples(&name).iter().for_each(|command| check_taken(&name, command));
        }
        assert!(examples("rxl-migrate").len() >= 9);
    }

    #[test]
    fn every_command_in_the_documentation_is_a_command_line_of_rxl() {
        for (file, text, least) in [
            ("README.md", include_str!("../README.md"), 5),
            ("quiesce.md", include_str!("quiesce.md"), 6),
            ("stream.md", include_str!("stream.md"), 2),
        ] {
            let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
            let commands: Vec<String> = lines.flat_map(commands_of_rxl).collect();
            commands.iter().for_each(|command| check_taken(file, command));
            assert!(commands.len() >= least, "{file}: {commands:?}");
        }
    }

    #[test]
    fn a_wrong_command_is_noticed() {
        assert_eq!(
            words("rxl migrate -s '' 'a b' c # d"),
            ["rxl", "migrate", "-s", "", "a b", "c"]
        );
        assert_eq!(commands_of_rxl("zcat x | rxl stream verify -").count(), 1);
        assert!(Cli::try_parse_from(words("rxl migrate --dry dom3 nodeB")).is_err());
    }

    #[test]
    fn completions_know_the_options() {
        let directory = tempfile::tempdir().unwrap();
        write_completions(directory.path()).unwrap();
        for file in ["rxl.bash", "_rxl", "rxl.fish"] {
            let script = fs::read_to_string(directory.path().join(file)).unwrap();
            assert!(script.contains("parallel-connections"), "{file}");
        }
    }
}
