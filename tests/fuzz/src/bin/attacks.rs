//! Where does a fuzzer of connections begin? Writes the attacks of the tables as inputs: `attacks FOLDER`.

use std::path::Path;
use std::{env, fs, io};

use countersign_fuzz::attacks;

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    for (target, inputs) in [("http1", attacks::http1()), ("http2", attacks::http2())] {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        for (number, (_, bytes)) in inputs.into_iter().enumerate() {
            fs::write(folder.join(number.to_string()), bytes)?;
        }
    }
    Ok(())
}
