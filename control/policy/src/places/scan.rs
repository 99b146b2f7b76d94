//! The scan itself: block and flow style, quotes, comments and block scalars, each just well enough to walk past it.

use super::{Name, Place, Places};

/// Keys and items beyond these are not indexed.
const MAX_PLACES: usize = 20_000;
const MAX_DEPTH: usize = 64;

/// The scan gave up: something that it does not know.
struct GiveUp;
type Scanned = Result<(), GiveUp>;

pub(super) struct Scan<'t> {
    text: &'t str,
    at: usize,
    line: usize,
    line_start: usize,
    places: Places<'t>,
}

// === impl Scan ===

impl<'t> Scan<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0, line: 1, line_start: 0, places: Places::default() }
    }

    /// Where it gives up half-way, what has been found stays.
    pub(super) fn run(mut self) -> Places<'t> {
        self.skip_marker();
        let _ = self.node(None, None, 0);
        self.places
    }

    /// A value that belongs to `place`, deeper than `indent`.
    fn node(&mut self, place: Option<usize>, indent: Option<usize>, depth: usize) -> Scanned {
        if depth > MAX_DEPTH {
            return Err(GiveUp);
        }
        self.skip_space();
        self.skip_properties();
        if self.is_done() || indent.is_some_and(|indent| self.column() <= indent) {
            return Ok(());
        }
        let column = self.column();
        match self.peek() {
            Some(b'[' | b'{') => self.flow(place, depth + 1),
            Some(b'-') if self.is_item() => self.block_list(place, column, depth + 1),
            Some(b'|' | b'>') => {
                self.skip_block_scalar(indent);
                Ok(())
            }
            _ if self.key_ahead() => self.block_mapping(place, column, depth + 1),
            Some(b'"' | b'\'') => {
                self.mark_quoted(place);
                self.quoted().map(|_| ())
            }
            _ => {
                self.skip_plain(indent);
                Ok(())
            }
        }
    }

    fn block_mapping(&mut self, parent: Option<usize>, column: usize, depth: usize) -> Scanned {
        loop {
            self.skip_space();
            if self.is_done() || self.column() != column || !self.key_ahead() {
                return Ok(());
            }
            let line = self.line;
            let key = self.key()?;
            let place = self.push(parent, Name::Key(key), line)?;
            self.skip_space();
            self.skip_properties();
            // A list may stand at the column of its key.
            if self.line > line && self.column() == column && self.is_item() {
                self.block_list(Some(place), column, depth + 1)?;
            } else {
                self.node(Some(place), Some(column), depth)?;
            }
        }
    }

    fn block_list(&mut self, parent: Option<usize>, column: usize, depth: usize) -> Scanned {
        for index in 0.. {
            self.skip_space();
            if self.is_done() || self.column() != column || !self.is_item() {
                break;
            }
            let place = self.push(parent, Name::Index(index), self.line)?;
            self.advance(1);
            self.node(Some(place), Some(column), depth)?;
        }
        Ok(())
    }

    fn flow(&mut self, parent: Option<usize>, depth: usize) -> Scanned {
        if depth > MAX_DEPTH {
            return Err(GiveUp);
        }
        let is_mapping = self.peek() == Some(b'{');
        self.advance(1);
        for index in 0.. {
            self.skip_space();
            match self.peek() {
                Some(b']' | b'}') => {
                    self.advance(1);
                    return Ok(());
                }
                None => return Err(GiveUp),
                _ => {}
            }
            let line = self.line;
            let place = if is_mapping {
                let key = self.flow_scalar()?;
                let place = self.push(parent, Name::Key(key), line)?;
                self.skip_space();
                if self.peek() == Some(b':') {
                    self.advance(1);
                }
                place
            } else {
                self.push(parent, Name::Index(index), line)?
            };
            self.skip_space();
            self.skip_properties();
            match self.peek() {
                Some(b'[' | b'{') => self.flow(Some(place), depth + 1)?,
                Some(b',' | b']' | b'}') => {}
                Some(b'"' | b'\'') => {
                    self.mark_quoted(Some(place));
                    self.quoted()?;
                }
                _ => {
                    self.flow_scalar()?;
                }
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.advance(1),
                Some(b']' | b'}') => {}
                _ => return Err(GiveUp),
            }
        }
        Ok(())
    }

    // Tokens.

    /// A key and its colon, in block style.
    fn key(&mut self) -> Result<&'t str, GiveUp> {
        let key = match self.peek() {
            Some(b'"' | b'\'') => self.quoted()?,
            _ => {
                let (start, end) = (self.at, self.at + self.plain_key_len().ok_or(GiveUp)?);
                self.advance(end - start);
                self.text.get(start..end).ok_or(GiveUp)?.trim_end()
            }
        };
        self.skip_blanks();
        if self.peek() != Some(b':') {
            return Err(GiveUp);
        }
        self.advance(1);
        Ok(key)
    }

    /// Does a key stand here: a plain or quoted scalar with a colon behind, on this line?
    fn key_ahead(&mut self) -> bool {
        match self.peek() {
            Some(b'"' | b'\'') => {
                let (at, line, line_start) = (self.at, self.line, self.line_start);
                let is_key = self.quoted().is_ok() && self.line == line && {
                    self.skip_blanks();
                    self.peek() == Some(b':')
                };
                (self.at, self.line, self.line_start) = (at, line, line_start);
                is_key
            }
            Some(b'?' | b'*' | b'#') | None => false,
            _ => self.plain_key_len().is_some(),
        }
    }

    /// The length of a plain key up to its colon.
    fn plain_key_len(&self) -> Option<usize> {
        let line = self.rest().lines().next()?;
        let bytes = line.as_bytes();
        bytes.iter().enumerate().find_map(|(index, byte)| {
            let next = bytes.get(index + 1);
            (*byte == b':' && next.is_none_or(|next| next.is_ascii_whitespace())).then_some(index)
        })
    }

    /// A quoted scalar, without its quotes and as written.
    fn quoted(&mut self) -> Result<&'t str, GiveUp> {
        let quote = self.peek().ok_or(GiveUp)?;
        self.advance(1);
        let start = self.at;
        loop {
            match (self.peek().ok_or(GiveUp)?, self.peek_at(1)) {
                (b'\\', Some(_)) if quote == b'"' => self.advance(2),
                (b'\'', Some(b'\'')) if quote == b'\'' => self.advance(2),
                (byte, _) if byte == quote => {
                    let content = self.text.get(start..self.at).ok_or(GiveUp)?;
                    self.advance(1);
                    return Ok(content);
                }
                _ => self.advance(1),
            }
        }
    }

    /// A scalar or key inside brackets.
    fn flow_scalar(&mut self) -> Result<&'t str, GiveUp> {
        if matches!(self.peek(), Some(b'"' | b'\'')) {
            return self.quoted();
        }
        let start = self.at;
        while let Some(byte) = self.peek() {
            let ends_key = byte == b':'
                && matches!(self.peek_at(1), None | Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b']' | b'}'));
            if ends_key || matches!(byte, b',' | b'[' | b']' | b'{' | b'}') {
                break;
            }
            self.advance(1);
        }
        if self.at == start {
            return Err(GiveUp);
        }
        Ok(self.text.get(start..self.at).ok_or(GiveUp)?.trim_end())
    }

    /// A plain scalar: to the end of its line, and the deeper lines after it.
    fn skip_plain(&mut self, indent: Option<usize>) {
        loop {
            self.skip_line();
            self.skip_space();
            if self.is_done() || self.column() <= indent.unwrap_or(0) {
                return;
            }
        }
    }

    /// A block scalar: the deeper or empty lines after its header.
    fn skip_block_scalar(&mut self, indent: Option<usize>) {
        self.skip_line();
        while !self.is_done() {
            let line = self.rest().lines().next().unwrap_or_default();
            let blank = line.trim().is_empty();
            let deep = line.len() - line.trim_start_matches(' ').len() > indent.unwrap_or(0);
            if !blank && !deep {
                return;
            }
            self.skip_line();
        }
    }

    /// Anchors, tags and aliases.
    fn skip_properties(&mut self) {
        while matches!(self.peek(), Some(b'&' | b'!' | b'*')) {
            while self
                .peek()
                .is_some_and(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b',' | b']' | b'}'))
            {
                self.advance(1);
            }
            self.skip_space();
        }
    }

    fn skip_marker(&mut self) {
        if self.text.starts_with("---") {
            self.advance(3);
        }
    }

    /// White space, line ends and comments.
    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            let comment = byte == b'#'
                && (self.at == self.line_start || self.peek_back().is_some_and(|b| b.is_ascii_whitespace()));
            match byte {
                _ if comment => self.skip_line(),
                _ if byte.is_ascii_whitespace() => self.advance(1),
                _ => return,
            }
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.advance(1);
        }
    }

    fn skip_line(&mut self) {
        let length = self.rest().find('\n').map_or(self.rest().len(), |end| end + 1);
        self.advance(length);
    }

    fn is_item(&self) -> bool {
        self.peek() == Some(b'-') && self.peek_at(1).is_none_or(|next| next.is_ascii_whitespace())
    }

    fn push(&mut self, parent: Option<usize>, name: Name<'t>, line: usize) -> Result<usize, GiveUp> {
        if self.places.all.len() >= MAX_PLACES {
            return Err(GiveUp);
        }
        self.places.all.push(Place { parent, name, line, quoted: false });
        Ok(self.places.all.len() - 1)
    }

    fn mark_quoted(&mut self, place: Option<usize>) {
        if let Some(place) = place.and_then(|index| self.places.all.get_mut(index)) {
            place.quoted = true;
        }
    }

    fn advance(&mut self, bytes: usize) {
        for _ in 0..bytes {
            if self.peek() == Some(b'\n') {
                self.line += 1;
                self.line_start = self.at + 1;
            }
            self.at += 1;
        }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn peek_back(&self) -> Option<u8> {
        self.at.checked_sub(1).and_then(|at| self.text.as_bytes().get(at)).copied()
    }

    fn column(&self) -> usize {
        self.at - self.line_start
    }

    fn is_done(&self) -> bool {
        self.at >= self.text.len()
    }
}
