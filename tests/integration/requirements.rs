//! Do the numbers in test names and comments lead somewhere? Each is a row of `tests/REQUIREMENTS.md`, and each row is
//! referred to by some test or comment.

use std::collections::BTreeSet;
use std::fs;

use crate::support::root;
use crate::tidy::sources;

#[test]
fn every_number_has_its_row_and_every_row_is_used() {
    let document = fs::read_to_string(root().join("tests/REQUIREMENTS.md")).expect("tests/REQUIREMENTS.md");
    let rows: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .map(|(number, _)| number.to_owned())
        .filter(|number| number.ends_with(|c: char| c.is_ascii_digit()))
        .collect();
    let mut used = BTreeSet::new();
    for file in sources("") {
        for name in file.text.split("fn ").skip(1) {
            used.extend(in_name(name.split('(').next().unwrap_or_default()));
        }
        let comments = file.text.lines().filter(|line| line.trim_start().starts_with("//"));
        used.extend(comments.flat_map(in_comment));
    }
    let unknown: Vec<_> = used.difference(&rows).collect();
    assert!(unknown.is_empty(), "without a row in tests/REQUIREMENTS.md: {unknown:?}");
    let unused: Vec<_> = rows.difference(&used).collect();
    assert!(unused.is_empty(), "in tests/REQUIREMENTS.md and in no test or comment: {unused:?}");
}

/// `v13_in_4_keys…` has V13 and IN-4; numbers stand at the beginning.
fn in_name(name: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    let mut parts = name.split('_').peekable();
    while let Some(part) = parts.next() {
        let letter = part.strip_prefix(['v', 'c', 'a']).filter(|digits| is_number(digits));
        if letter.is_some() {
            numbers.push(part.to_uppercase());
        } else if GROUPS.contains(&part.to_uppercase().as_str())
            && parts.peek().is_some_and(|next| is_number(next))
        {
            while let Some(number) = parts.next_if(|next| is_number(next)) {
                numbers.push(format!("{}-{number}", part.to_uppercase()));
            }
        } else {
            break;
        }
    }
    numbers
}

/// `(security IN-15, IN-16)` has both.
fn in_comment(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let numbers = words.filter(|word| {
        word.split_once('-').is_some_and(|(group, n)| GROUPS.contains(&group) && is_number(n))
    });
    numbers.map(str::to_owned).collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

const GROUPS: &[&str] = &["IN", "OUT", "INJ", "CP", "OS"];

#[test]
fn numbers_are_read() {
    assert_eq!(in_name("v13_in_4_keys_in_1"), ["V13", "IN-4"]);
    assert_eq!(in_name("in_12_13_x"), ["IN-12", "IN-13"]);
    assert!(in_name("in_time").is_empty() && in_name("accept").is_empty() && in_name("a").is_empty());
    assert_eq!(in_comment("// refused (security IN-15, OUT-8), IN-X"), ["IN-15", "OUT-8"]);
}
