//! hpcc, the HPC Challenge benchmark, as Debian builds it: kernels of every kind of communication,
//! each of which verifies its own result. Here are its input and what it says at its end.

use anyhow::{Context, Result, ensure};

/// Debian's example of an input.
const EXAMPLE: &str = "/usr/share/doc/hpcc/examples/_hpccinf.txt";

/// Lines of the example that are other: eight ranks, and small problems. What is wanted is the
/// traffic.
const CHANGES: [(usize, &str); 4] = [(6, "256 Ns"), (8, "32 NBs"), (11, "2 Ps"), (12, "4 Qs")];

/// What its output says at least so many times where all results are right.
const RIGHT: [(&str, usize); 4] = [
    ("(passed)", 4),
    ("5 tests completed and passed residual checks", 1),
    ("1 tests completed and passed residual checks", 1),
    ("Success=1", 1),
];

/// What it says of a result that is wrong.
const WRONG: [&str; 3] = ["FAILED", "(failed)", "Success=0"];

/// The input, which hpcc reads from hpccinf.txt.
pub fn input() -> Result<String> {
    let example = std::fs::read_to_string(EXAMPLE).context("hpcc: `make deps` installs it")?;
    let line = |(index, line): (usize, &str)| {
        let changed = CHANGES.iter().find(|(number, _)| *number == index + 1);
        changed.map_or(line, |(_, changed)| changed).to_owned() + "\n"
    };
    Ok(example.lines().enumerate().map(line).collect())
}

/// Checks hpccoutf.txt: every kernel has verified its result. One line about it.
pub fn verify(said: &str) -> Result<String> {
    for (right, times) in RIGHT {
        ensure!(said.matches(right).count() >= times, "no {times} of '{right}' in\n{said}");
    }
    ensure!(!WRONG.iter().any(|wrong| said.contains(wrong)), "{said}");
    Ok(format!("hpcc: {} kernels, all results verified", said.matches("End of").count()))
}
