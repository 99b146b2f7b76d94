//! Which inputs do the tables of attacks make? What was thought of by hand is where a fuzzer of connections begins.

use std::path::Path;
use std::{env, fs};

use notation::{latin, repeated, rows, unescaped};

// They are read as the integration tests read them.
#[expect(clippy::panic, reason = "a table that is written wrongly fails")]
#[path = "../../integration/attacks/notation.rs"]
mod notation;
#[expect(clippy::indexing_slicing, clippy::panic, reason = "a table that is written wrongly fails")]
#[path = "../../integration/attacks/written.rs"]
pub(crate) mod written;

/// The table and the name of an attack, and the bytes of an input.
pub type Input = (String, Vec<u8>);

/// Inputs of `http1`: an upstream that answers, a caller that ends its side, and what it sends.
pub fn http1() -> Vec<Input> {
    let kinds = ["smuggling", "chunks", "syntax", "targets", "hops"];
    named(&kinds, |sent| {
        let bytes = latin(&unescaped(&repeated(sent), crate::road::HOST));
        let behind = format!("GET /behind HTTP/1.1\r\nHost: {}\r\n\r\n", crate::road::HOST);
        [b"0".as_slice(), &bytes, behind.as_bytes()].concat()
    })
}

/// Inputs of `http2`, inbound and with an upstream that speaks HTTP/1.1 alone.
pub fn http2() -> Vec<Input> {
    let kinds = ["http2-fields", "http2-frames"];
    let input =
        |how: u8| move |sent: &str| crate::frames::input(how, &written::bytes(sent, crate::road::HOST));
    let (inbound, outbound) = (named(&kinds, input(b'0')), named(&kinds, input(b'8')));
    inbound
        .into_iter()
        .chain(outbound.into_iter().map(|(name, bytes)| (name + ", to HTTP/1.1", bytes)))
        .collect()
}

/// Writes them where `COUNTERSIGN_ATTACKS` says, for a fuzzer to begin with.
pub fn write(inputs: Vec<Input>) {
    let Some(folder) = env::var_os("COUNTERSIGN_ATTACKS") else { return };
    for (number, (_, bytes)) in inputs.into_iter().enumerate() {
        fs::write(Path::new(&folder).join(number.to_string()), bytes).expect("the folder");
    }
}

/// One for each row, without those that are large for the sake of a limit: they would slow down all that is made of them.
fn named(kinds: &[&str], input: impl Fn(&str) -> Vec<u8>) -> Vec<Input> {
    let mut inputs = Vec::new();
    for kind in kinds {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../attacks/{kind}.txt"));
        let table = fs::read_to_string(path).expect("a table");
        for row in rows(&table) {
            let bytes = input(row.get("sent").expect("sent"));
            if bytes.len() <= MAX_INPUT {
                inputs.push((format!("{kind}: {}", row.name), bytes));
            }
        }
    }
    inputs
}

const MAX_INPUT: usize = 4096;
