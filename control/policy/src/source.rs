//! Where does a document come from? Files split into documents, with their places, within bounds of size and number.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// The most documents that one version may have.
pub const MAX_DOCUMENTS: usize = 2_000;

/// Bounds of one folder: levels, policy files, bytes. They stop accidents (a home directory, a log), not policy.
pub const MAX_FOLDER_DEPTH: usize = 16;
pub const MAX_FOLDER_FILES: usize = 10_000;
pub const MAX_FOLDER_BYTES: usize = 32 << 20;

/// The text of one YAML document and its place. This is what bundles carry and what the state directory keeps, so that
/// every proxy compiles exactly what was written, and its problems name the file that a person can edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub file: String,
    /// One-based line of the document's first line in the file.
    pub line: usize,
    pub text: String,
}

/// Does a file of this name belong to a policy folder: `*.yaml`, `*.yml`, `*.json`, not beginning with a dot?
pub fn is_policy_file(name: &str) -> bool {
    match name.rsplit_once('.') {
        Some((stem, "yaml" | "yml" | "json")) => !stem.is_empty() && !name.starts_with('.'),
        _ => false,
    }
}

/// The documents of a folder while it is read, file by file, with all that is wrong with it.
#[derive(Debug)]
pub struct Gathering {
    folder: String,
    files: usize,
    bytes: usize,
    sources: Vec<Source>,
    problems: Vec<Problem>,
}

// === impl Gathering ===

impl Gathering {
    /// `folder` is for messages alone.
    pub fn new(folder: impl fmt::Display) -> Self {
        let (sources, problems) = (Vec::new(), Vec::new());
        Self { folder: folder.to_string(), files: 0, bytes: 0, sources, problems }
    }

    /// The next file's content, or why it cannot be read. False: the folder is beyond its bounds, no more is taken.
    pub fn add(&mut self, file: impl fmt::Display, content: Result<Vec<u8>, String>) -> bool {
        let file = file.to_string();
        let read = content.map_err(|message| Problem::of_file(&file, &message)).and_then(|bytes| {
            self.bytes = self.bytes.saturating_add(bytes.len());
            split(&file, &bytes)
        });
        match read {
            Ok(documents) => self.sources.extend(documents),
            Err(found) => self.problems.push(found),
        }
        self.files = self.files.saturating_add(1);
        let beyond = match (self.files > MAX_FOLDER_FILES, self.bytes > MAX_FOLDER_BYTES) {
            (true, _) => format!("has more than {MAX_FOLDER_FILES} policy files"),
            (_, true) => format!("has more than {MAX_FOLDER_BYTES} bytes of policy"),
            _ => return true,
        };
        self.problems.push(Problem::of_file(&self.folder, &beyond));
        false
    }

    /// Every document in the order of the files, or every problem.
    pub fn finish(self) -> Result<Vec<Source>, Vec<Problem>> {
        if self.problems.is_empty() { Ok(self.sources) } else { Err(self.problems) }
    }
}

/// The documents of one file. Empty documents are skipped; size, encoding and number are checked.
pub fn split(file: &str, bytes: &[u8]) -> Result<Vec<Source>, Problem> {
    let text = decode(bytes).map_err(|(line, message)| problem(file, line, message))?;
    let mut sources = Vec::new();
    let mut open = Open::at(1);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let number = index + 1;
        match marker(line) {
            Some(rest) => {
                sources.extend(open.close(file)?);
                // What follows a marker on its line belongs to the document; a bare marker does not.
                open = if is_blank(rest) { Open::at(number + 1) } else { Open::with(number, line) };
            }
            None if line.starts_with('%') && is_blank(&open.text) => {
                return Err(problem(
                    file,
                    number,
                    "YAML directives are not supported: remove the line".to_owned(),
                ));
            }
            None => open.text.push_str(line),
        }
        if sources.len() > MAX_DOCUMENTS {
            return Err(problem(
                file,
                number,
                format!("more than {MAX_DOCUMENTS} documents: split the policy"),
            ));
        }
    }
    sources.extend(open.close(file)?);
    Ok(sources)
}

/// The document that is being gathered.
struct Open {
    line: usize,
    text: String,
}

// === impl Open ===

impl Open {
    fn at(line: usize) -> Self {
        Self { line, text: String::new() }
    }

    fn with(line: usize, text: &str) -> Self {
        Self { line, text: text.to_owned() }
    }

    fn close(self, file: &str) -> Result<Option<Source>, Problem> {
        if is_blank(&self.text) {
            return Ok(None);
        }
        if self.text.len() > MAX_DOCUMENT_BYTES {
            let message = format!("the document is larger than {} KiB: split it", MAX_DOCUMENT_BYTES >> 10);
            return Err(problem(file, self.line, message));
        }
        Ok(Some(Source { file: file.to_owned(), line: self.line, text: self.text }))
    }
}

/// What follows a document marker (`---` or `...` at the start of a line); `None` for any other line. YAML lets neither
/// stand inside a scalar there, so a cut at lines is exact.
fn marker(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(rest)
}

/// Nothing but white space and comments?
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    })
}

/// The text, or the line and what is wrong with it.
fn decode(bytes: &[u8]) -> Result<&str, (usize, String)> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err((0, format!("the file is larger than {} KiB: split it", MAX_FILE_BYTES >> 10)));
    }
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        return Err((1, "the file begins with a byte order mark: save it as UTF-8 without one".to_owned()));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err((1, "the file is UTF-16: save it as UTF-8".to_owned()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (valid, _) = bytes.split_at(error.valid_up_to());
        (line_of(valid), "the file is not valid UTF-8: is it binary?".to_owned())
    })?;
    match text.char_indices().find(|(_, c)| is_forbidden(*c)) {
        Some((at, c)) => {
            let (before, _) = bytes.split_at(at);
            Err((
                line_of(before),
                format!("the file holds the control character U+{:04X}: is it binary?", u32::from(c)),
            ))
        }
        None => Ok(text),
    }
}

/// Control characters that YAML does not know, and line breaks that only some parsers know (U+0085, U+2028, U+2029).
fn is_forbidden(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn line_of(before: &[u8]) -> usize {
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn problem(file: &str, line: usize, message: String) -> Problem {
    Problem { file: file.to_owned(), line, document: String::new(), field: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_and_texts(text: &str) -> Vec<(usize, String)> {
        split("f", text.as_bytes()).unwrap().into_iter().map(|s| (s.line, s.text)).collect()
    }

    fn refused(bytes: &[u8]) -> String {
        split("f", bytes).unwrap_err().to_string()
    }

    #[test]
    fn policy_files_by_name() {
        for name in ["a.yaml", "a.yml", "a.json", "a.b.yaml"] {
            assert!(is_policy_file(name), "{name}");
        }
        for name in [".a.yaml", ".yaml", "a.YAML", "a.yaml~", "yaml", "a.txt", "..data"] {
            assert!(!is_policy_file(name), "{name}");
        }
    }

    #[test]
    fn documents_keep_their_first_line() {
        assert_eq!(
            lines_and_texts("a: 1\n---\n# nothing\n---\n\nb: 2\n---   \nc: 3\n...\n"),
            [(1, "a: 1\n".to_owned()), (5, "\nb: 2\n".to_owned()), (8, "c: 3\n".to_owned())]
        );
    }

    #[test]
    fn a_document_may_begin_on_the_line_of_its_marker() {
        assert_eq!(lines_and_texts("---\n--- {a: 1}\n"), [(2, "--- {a: 1}\n".to_owned())]);
    }

    #[test]
    fn dashes_that_are_no_marker_do_not_cut() {
        assert_eq!(lines_and_texts("----\n--x\n - ---\n").len(), 1);
    }

    #[test]
    fn empty_files_have_no_documents() {
        assert!(lines_and_texts("").is_empty());
        assert!(lines_and_texts("---\n---\n# a\n").is_empty());
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_line() {
        assert_eq!(refused(b"a: 1\nb: \xff"), "f:2: the file is not valid UTF-8: is it binary?");
        assert_eq!(
            refused(b"a: 1\n\nb: \0"),
            "f:3: the file holds the control character U+0000: is it binary?"
        );
        assert!(refused(b"\xef\xbb\xbfa: 1").contains("byte order mark"));
        assert!(refused(b"\xff\xfea\0").contains("UTF-16"));
        assert!(refused(b"# x\n%YAML 1.2\n---\n").starts_with("f:2: YAML directives"));
    }

    #[test]
    fn a_folder_is_gathered_whole_and_within_bounds() {
        let mut good = Gathering::new("d");
        assert!(good.add("d/a", Ok(b"a: 1".to_vec())) && good.add("d/b", Ok(b"---\nb: 2".to_vec())));
        assert_eq!(good.finish().unwrap().len(), 2);
        let mut bad = Gathering::new("d");
        assert!(bad.add("d/a", Err("is gone".to_owned())) && bad.add("d/b", Ok(b"\0".to_vec())));
        let problems = bad.finish().unwrap_err();
        assert_eq!((problems.len(), problems[0].to_string().as_str()), (2, "d/a: is gone"));
        let mut many = Gathering::new("d");
        assert_eq!((0..).take_while(|_| many.add("d/a", Ok(Vec::new()))).count(), MAX_FOLDER_FILES);
        assert!(many.finish().unwrap_err()[0].to_string().starts_with("d: has more than"));
        let mut large = Gathering::new("d");
        let file = vec![b'#'; MAX_FILE_BYTES];
        assert_eq!((0..).take_while(|_| large.add("d/a", Ok(file.clone()))).count(), 32);
    }

    #[test]
    fn size_and_number_are_bounded() {
        assert!(refused(&vec![b'a'; MAX_FILE_BYTES + 1]).contains("larger than 1024 KiB"));
        assert!(
            refused(&vec![b'a'; MAX_DOCUMENT_BYTES + 1]).contains("f:1: the document is larger than 256 KiB")
        );
        assert!(
            refused("---\na\n".repeat(MAX_DOCUMENTS + 2).as_bytes()).contains("more than 2000 documents")
        );
    }
}
