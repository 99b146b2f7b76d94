//! How is it told? Numbered steps; of each one a few lines of YAML, what went over the wire, and how it came out.

use std::io::{IsTerminal, Write};

/// The longest line, in characters.
const WIDTH: usize = 98;

/// Where what went over the wire begins.
const MARGIN: usize = 23;

/// Most lines of YAML in a step.
pub(crate) const MAX_YAML: usize = 10;

/// Tells the story, and remembers which steps went otherwise.
pub(crate) struct Story {
    out: Box<dyn Write>,
    colour: bool,
    step: usize,
    failed: Vec<usize>,
}

/// How a step came out: what was seen, or what was seen instead.
pub(crate) type Outcome = Result<String, String>;

// === impl Story ===

impl Story {
    /// On standard output, in colour if that is a terminal and `NO_COLOR` is not set.
    pub(crate) fn on_stdout() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::new(Box::new(std::io::stdout()), colour)
    }

    fn new(out: Box<dyn Write>, colour: bool) -> Self {
        Self { out, colour, step: 0, failed: Vec::new() }
    }

    /// A line outside the steps.
    pub(crate) fn line(&mut self, text: &str) {
        self.put("", text);
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        let title = format!("{}  {title}", self.step);
        self.put("", "");
        self.put(BOLD, &title);
    }

    /// An excerpt of a policy file.
    pub(crate) fn yaml(&mut self, file: &str, lines: &str) {
        self.put(DIM, &format!("   {file}"));
        for line in lines.lines().take(MAX_YAML) {
            self.put(CYAN, &format!("   | {line}"));
        }
    }

    /// What went over the wire: who, and what; wrapped where it is too long.
    pub(crate) fn wire(&mut self, who: &str, what: &str) {
        let mut who = who;
        for line in wrapped(what, WIDTH - MARGIN) {
            self.put("", &format!("   {who:<19} {}", line.trim_end()));
            who = "";
        }
    }

    /// Ends the step.
    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Ok(text) => self.put(GREEN, &format!("   ok: {text}")),
            Err(text) => {
                self.failed.push(self.step);
                self.put(RED, &format!("   WENT OTHERWISE: {text}"));
            }
        }
    }

    /// The steps that went otherwise.
    pub(crate) fn failed(&self) -> &[usize] {
        &self.failed
    }

    fn put(&mut self, colour: &str, text: &str) {
        let text = shortened(text);
        // Nobody reads any more: that is no reason to stop checking.
        let _ = match self.colour && !colour.is_empty() {
            true => writeln!(self.out, "{colour}{text}{RESET}"),
            false => writeln!(self.out, "{text}"),
        };
        let _ = self.out.flush();
    }
}

impl std::fmt::Debug for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Story")
            .field("step", &self.step)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Lines of that width at most, broken behind spaces and commas where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in text.split_inclusive([' ', ',']) {
        let fits = |line: &String| {
            line.is_empty() || line.chars().count() + piece.trim_end().chars().count() <= width
        };
        if let Some(line) = lines.last_mut().filter(|line| fits(line)) {
            line.push_str(piece);
            continue;
        }
        lines.push(format!("  {piece}"));
    }
    lines
}

/// One line, not wider than a terminal, without anything that would move its cursor.
fn shortened(text: &str) -> String {
    let clean = || text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if clean().count() <= WIDTH {
        return clean().collect();
    }
    let mut short: String = clean().take(WIDTH - 1).collect();
    short.push('…');
    short
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[1;31m";
const RESET: &str = "\x1b[0m";

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn tell(colour: bool) -> (String, Vec<usize>) {
        let page = Page::default();
        let mut story = Story::new(Box::new(page.clone()), colour);
        story.step("First");
        story.yaml("a.yaml", &"key: value\n".repeat(20));
        story.wire("you > checkout", &"x".repeat(300));
        story.outcome(&Ok("seen".into()));
        story.step("Second");
        story.wire("you < checkout", "a\r\n\x1b[31mb");
        story.outcome(&Err("not seen".into()));
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        (text, story.failed().to_vec())
    }

    #[test]
    fn is_narrow_short_and_without_escapes_when_nobody_sees_colours() {
        let (text, failed) = tell(false);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(text.matches("key: value").count(), MAX_YAML);
        assert!(!text.contains('\x1b') && !text.contains('\r'));
        assert!(text.contains("1  First") && text.contains("2  Second"));
        assert!(text.contains("ok: seen") && text.contains("WENT OTHERWISE: not seen"));
        assert_eq!(failed, [2]);
    }

    #[test]
    fn long_lines_are_wrapped_and_nothing_is_lost() {
        let text = "Bearer realm=\"countersign\", error=\"insufficient_scope\", scope=\"orders:admin\"";
        let lines = wrapped(text, 40);
        assert!(
            lines.len() > 1 && lines.iter().all(|line| line.trim_end().chars().count() <= 42),
            "{lines:?}"
        );
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        assert_eq!(wrapped("short", 40), ["short"]);
    }

    #[test]
    fn is_coloured_on_a_terminal() {
        assert!(tell(true).0.contains("\x1b[32m   ok: seen\x1b[0m"));
    }
}
