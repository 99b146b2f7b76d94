//! Is what is installed what was asked for, and where do they part? Two lists of rules, line by line.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Asked for and not there, or not in its place.
    Missing(String),
    /// There and not asked for, or not in its place.
    Unexpected(String),
}

/// What is left of both lists without the longest sequence of lines that they share, in order.
pub(super) fn between(asked: &[String], found: &[String]) -> Vec<Difference> {
    let lengths = lengths(asked, found);
    // The longest shared sequence of what follows these places.
    let longest = |a: usize, f: usize| {
        let row = asked.len().checked_sub(a).and_then(|rest| lengths.get(rest));
        row.and_then(|row| row.get(found.len().checked_sub(f)?)).copied()
    };
    let (mut a, mut f, mut differences) = (0, 0, Vec::new());
    loop {
        match (asked.get(a), found.get(f)) {
            (None, None) => return differences,
            (Some(line), Some(other)) if line == other => (a, f) = (a + 1, f + 1),
            (Some(line), _) if longest(a + 1, f) >= longest(a, f + 1) => {
                differences.push(Difference::Missing(line.clone()));
                a += 1;
            }
            (_, Some(line)) => {
                differences.push(Difference::Unexpected(line.clone()));
                f += 1;
            }
            (Some(line), None) => {
                differences.push(Difference::Missing(line.clone()));
                a += 1;
            }
        }
    }
}

/// How long the longest shared sequence is of the last so many lines of each.
fn lengths(asked: &[String], found: &[String]) -> Vec<Vec<usize>> {
    let mut rows = Vec::with_capacity(asked.len() + 1);
    let mut below = vec![0; found.len() + 1];
    for line in asked.iter().rev() {
        let (mut row, mut beside) = (vec![0], 0);
        for (other, pair) in found.iter().rev().zip(below.windows(2)) {
            let &[diagonal, above] = pair else { continue };
            beside = if line == other { diagonal + 1 } else { beside.max(above) };
            row.push(beside);
        }
        rows.push(std::mem::replace(&mut below, row));
    }
    rows.push(below);
    rows
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(line) => write!(f, "missing: {line}"),
            Self::Unexpected(line) => write!(f, "unexpected: {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(asked: &str, found: &str) -> String {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let sign = |difference| match difference {
            Difference::Missing(line) => format!("+{line}"),
            Difference::Unexpected(line) => format!("-{line}"),
        };
        between(&lines(asked), &lines(found)).into_iter().map(sign).collect()
    }

    #[test]
    fn what_was_deleted_added_changed_or_moved_is_found() {
        assert_eq!(told("abcd", "abcd"), "");
        assert_eq!(told("abcd", "abd"), "+c");
        assert_eq!(told("abcd", "abxcd"), "-x");
        assert_eq!(told("abcd", "abxd"), "+c-x");
        assert_eq!(told("abcd", ""), "+a+b+c+d");
        assert_eq!(told("", "ab"), "-a-b");
        assert_eq!(told("aab", "ab"), "+a");
        assert!(matches!(told("abcd", "bacd").as_str(), "-b+b" | "+a-a"));
    }
}
