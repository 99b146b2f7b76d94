//! The command `countersign-control`.

use std::process::ExitCode;

use clap::Parser;
use countersign_control::config::{Cli, Command};
use countersign_control::{app, check, explain, schema, trial};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(written) => written.check().map_err(|error| error.to_string()).and_then(|config| {
            app::log();
            app::serve(config).map_err(|error| error.to_string())
        }),
        Command::Check { paths, deny_warnings } => check::run(&paths, deny_warnings),
        Command::Test { paths, junit, header_underscores } => {
            trial::run(&paths, header_underscores, junit.as_deref())
        }
        Command::Explain(flags) => explain::run(*flags),
        Command::Schema => schema::run(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("countersign-control: {error}");
            ExitCode::from(2)
        }
    }
}
