//! Text from peers and children, made safe for a message of one line.

/// The text without control characters and line ends, cut to 1000 characters. Text from a peer or a
/// child may hold anything.
pub fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
