//! Where does a frame end? The headers of one direction's frames, read as their bytes go by (RFC 6455 §5.2). Payloads are
//! not looked at, and messages are not put together.

/// Follows the frames of one direction.
#[derive(Debug)]
pub(super) struct Frames {
    sender: Sender,
    /// Extensions were negotiated, which may use the reserved bits and opcodes.
    extended: bool,
    next: Next,
    is_close: bool,
    /// A Close frame has ended: nothing comes after it (§5.5.1).
    closed: bool,
}

/// Who sends: clients mask what they send, servers do not (§5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Of a frame: FIN, reserved bits, opcode.
    First,
    /// MASK and the length, or how long the length is.
    Second {
        is_control: bool,
    },
    /// The rest of the length, so many bytes of it.
    Length {
        left: u8,
        so_far: u64,
    },
    /// The masking key, before so many bytes of payload.
    Key {
        left: u8,
        payload: u64,
    },
    Payload {
        left: u64,
    },
}

/// What some bytes of a direction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// How many of them belong to frames in order, and may go on.
    pub(super) good: usize,
    /// After how many of them a frame ends for the last time; 0 where one begins with the first of them. `None`: they are
    /// the inside of one frame.
    pub(super) boundary: Option<usize>,
    /// What follows the good ones is no frame.
    pub(super) malformed: bool,
}

/// What no endpoint may send.
struct Malformed;

// === impl Frames ===

impl Frames {
    pub(super) fn of(sender: Sender, extended: bool) -> Self {
        Self { sender, extended, next: Next::First, is_close: false, closed: false }
    }

    /// Has a Close frame gone by?
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads on. Nothing may be read after what was malformed; what comes after a Close frame is not good, and is ignored.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Stretch {
        let mut boundary = (self.next == Next::First).then_some(0);
        let mut at = 0;
        while let (false, Some(&byte)) = (self.closed, bytes.get(at)) {
            let step = match self.next {
                Next::Payload { left } => {
                    let here = bytes.len() - at;
                    let step = usize::try_from(left).map_or(here, |left| left.min(here));
                    self.next = ended(left - u64::try_from(step).unwrap_or(left));
                    step
                }
                _ => match self.header(byte) {
                    Ok(next) => {
                        self.next = next;
                        1
                    }
                    Err(Malformed) => {
                        return Stretch { good: boundary.unwrap_or(0), boundary, malformed: true };
                    }
                },
            };
            at += step;
            if self.next == Next::First {
                boundary = Some(at);
                self.closed = self.is_close;
            }
        }
        Stretch { good: at, boundary, malformed: false }
    }

    /// One byte of a header, and what comes after it.
    fn header(&mut self, byte: u8) -> Result<Next, Malformed> {
        Ok(match self.next {
            Next::First => {
                let (is_final, reserved, opcode) = (byte & 0x80 != 0, byte & 0x70, byte & 0x0f);
                let is_control = opcode >= CLOSE;
                let is_known = matches!(opcode, 0..=2 | CLOSE..=PONG) && reserved == 0;
                if is_control && !is_final || !is_known && !self.extended {
                    return Err(Malformed);
                }
                self.is_close = opcode == CLOSE;
                Next::Second { is_control }
            }
            Next::Second { is_control } => {
                let (is_masked, length) = (byte & 0x80 != 0, byte & 0x7f);
                if is_masked != (self.sender == Sender::Client) || is_control && length > MAX_CONTROL {
                    return Err(Malformed);
                }
                match length {
                    127 => Next::Length { left: 8, so_far: 0 },
                    126 => Next::Length { left: 2, so_far: 0 },
                    length => self.after_length(length.into()),
                }
            }
            Next::Length { left, so_far } => {
                // The most significant bit is 0.
                if left == 8 && byte & 0x80 != 0 {
                    return Err(Malformed);
                }
                let so_far = so_far << 8 | u64::from(byte);
                if left > 1 { Next::Length { left: left - 1, so_far } } else { self.after_length(so_far) }
            }
            Next::Key { left, payload } if left > 1 => Next::Key { left: left - 1, payload },
            Next::Key { payload, .. } => ended(payload),
            payload @ Next::Payload { .. } => payload,
        })
    }

    fn after_length(&self, payload: u64) -> Next {
        match self.sender {
            Sender::Client => Next::Key { left: 4, payload },
            Sender::Server => ended(payload),
        }
    }
}

fn ended(left: u64) -> Next {
    if left == 0 { Next::First } else { Next::Payload { left } }
}

/// A Close frame of ours (§5.5.1). As a client we mask it, with a key that others cannot foresee.
pub(super) fn close(code: u16, word: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = code.to_be_bytes().into_iter().chain(word.bytes().take(MAX_WORD));
    let length = u8::try_from(2 + word.len().min(MAX_WORD)).unwrap_or(MAX_CONTROL);
    let mut frame = vec![0x80 | CLOSE, if mask.is_some() { 0x80 | length } else { length }];
    match mask {
        None => frame.extend(payload),
        Some(key) => {
            frame.extend(key);
            frame.extend(payload.zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
        }
    }
    frame
}

const CLOSE: u8 = 8;
const PONG: u8 = 10;
/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: u8 = 125;
/// What a Close frame has room for beside its code.
const MAX_WORD: usize = 123;

#[cfg(test)]
mod tests;
