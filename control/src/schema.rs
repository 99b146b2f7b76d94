//! What may be written in policy? The command `schema`: for editors, on stdout.

use std::io;
use std::process::ExitCode;

use countersign_policy::schema;

use crate::check::print;

/// Prints the JSON Schema of policy documents.
pub fn run() -> Result<ExitCode, String> {
    print(&mut io::stdout(), &text());
    Ok(ExitCode::SUCCESS)
}

fn text() -> String {
    format!("{:#}", schema::schema())
}
