//! How do the others behave, before the sidecar and behind it?

/// How the parts around the sidecar behave: the first byte of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) manner: Manner,
    pub(crate) way: Way,
    pub(crate) end: End,
}

/// How the upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Plain,
    /// In chunks, with a trailer.
    Chunked,
    /// At the head of a request.
    Early,
    /// And closes.
    Last,
    /// Never.
    Silent,
    /// It breaks off.
    Broken,
    /// After interim answers.
    Interim,
    /// With 101, asked for or not.
    Switching,
}

/// Where the connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the application, in the HTTP version of the caller.
    Inbound,
    /// Redirected, to a destination that speaks HTTP/1.1.
    Outbound,
}

/// What the caller does when all is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It ends its side, and listens.
    Half,
    /// It listens.
    Open,
    /// It is gone.
    Gone,
}

// === impl How ===

impl How {
    pub(crate) fn of(byte: u8) -> Self {
        let manner = match byte & 7 {
            0 => Manner::Plain,
            1 => Manner::Chunked,
            2 => Manner::Early,
            3 => Manner::Last,
            4 => Manner::Silent,
            5 => Manner::Broken,
            6 => Manner::Interim,
            _ => Manner::Switching,
        };
        let end = match byte >> 4 & 3 {
            1 => End::Open,
            2 => End::Gone,
            _ => End::Half,
        };
        Self { manner, way: if byte & 8 == 0 { Way::Inbound } else { Way::Outbound }, end }
    }

    /// Is each request answered, and each answer heard?
    pub(crate) fn answers(self) -> bool {
        let answers = !matches!(self.manner, Manner::Silent | Manner::Broken | Manner::Switching);
        answers && self.end != End::Gone
    }
}
