//! On which line does a field stand? A scan for keys and items that knows just enough of YAML's form to find them again
//! for a message. Nothing is decided by it: where it is at a loss, there is no line.

mod scan;

use crate::field::{Field, Step};
use scan::Scan;

/// Where the keys and items of one document stand.
#[derive(Debug, Default)]
pub(crate) struct Places<'t> {
    all: Vec<Place<'t>>,
}

/// A key of a mapping or an item of a list.
#[derive(Debug)]
struct Place<'t> {
    parent: Option<usize>,
    name: Name<'t>,
    line: usize,
    /// Does its value begin with a quote?
    quoted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Name<'t> {
    Key(&'t str),
    Index(usize),
}

// === impl Places ===

impl<'t> Places<'t> {
    pub(crate) fn of(text: &'t str) -> Self {
        Scan::new(text).run()
    }

    /// One-based line of the field, or of the closest field above it that was found.
    pub(crate) fn line(&self, field: &Field) -> Option<usize> {
        let mut found = None;
        for step in field.steps() {
            match self.children(found, step).next() {
                Some(index) => found = Some(index),
                None => break,
            }
        }
        self.all.get(found?).map(|place| place.line)
    }

    /// The one-based line of each item of this list, in order. In one pass, however long the list.
    pub(crate) fn item_lines(&self, list: &Field) -> impl Iterator<Item = usize> + '_ {
        let mut found = None;
        let is_there = list.steps().iter().all(|step| {
            found = self.children(found, step).next();
            found.is_some()
        });
        let is_item = move |place: &&Place<'t>| {
            is_there && place.parent == found && matches!(place.name, Name::Index(_))
        };
        self.all.iter().filter(is_item).map(|place| place.line)
    }

    /// The line of the second of several fields of this name.
    pub(crate) fn second(&self, field: &Field) -> Option<usize> {
        let (last, above) = field.steps().split_last()?;
        let mut parent = None;
        for step in above {
            parent = Some(self.children(parent, step).next()?);
        }
        let index = self.children(parent, last).nth(1)?;
        self.all.get(index).map(|place| place.line)
    }

    /// Is the value written in quotes? `false` where the field was not found.
    pub(crate) fn is_quoted(&self, field: &Field) -> bool {
        let mut found = None;
        for step in field.steps() {
            match self.children(found, step).next() {
                Some(index) => found = Some(index),
                None => return false,
            }
        }
        found.and_then(|index| self.all.get(index)).is_some_and(|place| place.quoted)
    }

    fn children<'a>(&'a self, parent: Option<usize>, step: &'a Step) -> impl Iterator<Item = usize> + 'a {
        let is_it = move |name: &Name<'t>| match (name, step) {
            (Name::Key(key), Step::Key(wanted)) => key == wanted,
            (Name::Index(index), Step::Index(wanted)) => index == wanted,
            _ => false,
        };
        // A child stands after its parent.
        let first = parent.map_or(0, |index| index + 1);
        let found = move |(_, place): &(usize, &Place<'t>)| place.parent == parent && is_it(&place.name);
        self.all.iter().enumerate().skip(first).filter(found).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"apiVersion: v1   # a comment
kind: "x"
spec:
  rules:
  - name: write
    to: { methods: [POST, "GET"],
          paths: ["/a#b", '/it''s: {id}'] }
  - # nothing here
    name: |
      name: not me
    to:
      paths:
        - /a:b
        - 'quoted'
      text: plain
        and more: or so
  "odd key": &anchor
    a: *alias
    b: yes
last: 1
"#;

    fn line(path: &str) -> Option<usize> {
        Places::of(TEXT).line(&Field::parse(path))
    }

    #[test]
    fn finds_the_lines_of_a_list() {
        let lines = |path: &str| Places::of(TEXT).item_lines(&Field::parse(path)).collect::<Vec<_>>();
        assert_eq!(lines("spec.rules"), [5, 8]);
        assert_eq!(lines("spec.rules[1].to.paths"), [13, 14]);
        assert_eq!(lines("spec.rulez"), [0; 0]);
        assert_eq!(lines("spec.rules[7]"), [0; 0]);
    }

    #[test]
    fn finds_the_line_of_a_field() {
        assert_eq!(line("kind"), Some(2));
        assert_eq!(line("spec.rules[0].name"), Some(5));
        assert_eq!(line("spec.rules[0].to.methods[1]"), Some(6));
        assert_eq!(line("spec.rules[0].to.paths[1]"), Some(7));
        assert_eq!(line("spec.rules[1]"), Some(8));
        assert_eq!(line("spec.rules[1].name"), Some(9));
        assert_eq!(line("spec.rules[1].to.paths[0]"), Some(13));
        assert_eq!(line("spec.rules[1].to.text"), Some(15));
        assert_eq!(line("spec.odd key.b"), Some(19));
        assert_eq!(line("last"), Some(20));
    }

    #[test]
    fn what_is_not_there_has_the_line_of_what_is_above() {
        assert_eq!(line("spec.rules[1].from.claims"), Some(8));
        assert_eq!(line("nothing"), None);
    }

    #[test]
    fn tells_quoted_from_plain() {
        let places = Places::of(TEXT);
        for (path, quoted) in [
            ("kind", true),
            ("spec.rules[0].to.methods[0]", false),
            ("spec.rules[0].to.methods[1]", true),
            ("spec.rules[1].to.paths[1]", true),
            ("spec.odd key.b", false),
        ] {
            assert_eq!(places.is_quoted(&Field::parse(path)), quoted, "{path}");
        }
    }

    #[test]
    fn the_second_of_two_equal_keys() {
        let places = Places::of("a:\n  b: 1\n  c: 2\n  b: 3\n");
        assert_eq!(places.second(&Field::parse("a.b")), Some(4));
    }

    #[test]
    fn json_is_yaml() {
        let places = Places::of("{\n \"a\": {\"b\":\n [1,\n 2]}}");
        assert_eq!(places.line(&Field::parse("a.b[1]")), Some(4));
    }

    #[test]
    fn ends_on_anything() {
        let deep = "[".repeat(100_000);
        let deeper = "- ".repeat(100_000);
        let keys = "a: ".repeat(50_000);
        for text in [
            "",
            "---",
            "? a\n: b\n",
            "{",
            "\"",
            "a: [",
            "- - -\n-",
            "{,}",
            "{a}",
            "\u{e9}: \u{e9}",
            ": :",
            &deep,
            &deeper,
            &keys,
        ] {
            Places::of(text);
        }
    }
}
