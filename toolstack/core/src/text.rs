//! Text of others, made fit for one line.

/// Text from a peer or a child may hold anything; a message is one line without control characters.
pub fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
