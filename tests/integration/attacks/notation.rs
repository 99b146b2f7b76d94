//! How are attacks written down? Tables of rows, and bytes in a notation that fits into a line: `tests/attacks/README.md` explains it.

/// A row of any table: a name, and fields whose values begin in the 13th column.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    fields: Vec<(String, String)>,
}

/// The rows of a table, of which this is the text.
pub(crate) fn rows(text: &str) -> Vec<Row> {
    let blocks = text.split("\n\n").map(|block| block.lines().filter(|line| !line.starts_with('#')));
    blocks.filter_map(Row::of).collect()
}

// === impl Row ===

impl Row {
    fn of<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let name = lines.next()?.to_owned();
        let field = |line: &str| (line[..12].trim().to_owned(), line[12..].to_owned());
        Some(Self { name, fields: lines.map(field).collect() })
    }

    /// The value of a field. All of them must be known, and none be there twice.
    pub(crate) fn get(&self, wanted: &str) -> Option<&str> {
        let known = ["sent", "inbound", "outbound", "http1", "because"];
        let is_known = |(name, _): &(String, String)| known.contains(&name.as_str());
        assert!(self.fields.iter().all(is_known), "{self:?}");
        let mut values = self.fields.iter().filter(|(name, _)| name == wanted);
        let value = values.next();
        assert!(values.next().is_none(), "{self:?}");
        value.map(|(_, value)| value.as_str())
    }
}

// === the notation ===

/// `<x*3>` is `xxx`.
pub(crate) fn repeated(text: &str) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('<') {
        let (what, after) = after.split_once('>').expect("<x*3>");
        let (what, times) = what.split_once('*').expect("<x*3>");
        done += before;
        done += &what.repeat(times.parse().expect("a number"));
        rest = after;
    }
    done + rest
}

/// Each character as a byte.
pub(crate) fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

/// `¶` is CRLF, `HOST` the host that is meant, and escapes as in C.
pub(crate) fn unescaped(text: &str, host: &str) -> String {
    let text = text.replace('¶', "\r\n").replace("HOST", host);
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    while let Some(part) = parts.next() {
        let hexadecimal = |part: &str| part.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, length) = match part.as_bytes().first() {
            Some(b'n') => (b'\n', 1),
            Some(b'r') => (b'\r', 1),
            Some(b't') => (b'\t', 1),
            Some(b'0') => (0, 1),
            // Nothing, where a value is empty.
            Some(b'e') => {
                plain += &part[1..];
                continue;
            }
            Some(b'x') => (hexadecimal(part).expect("two digits"), 3),
            // Two of them are one.
            None => {
                plain.push('\\');
                plain += parts.next().unwrap_or_default();
                continue;
            }
            Some(_) => panic!("an escape in {text:?}"),
        };
        plain.push(char::from(byte));
        plain += &part[length..];
    }
    plain
}
