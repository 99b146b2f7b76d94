//! The command line of the sidecar: `run`, `wait` and `init`.

use std::process::ExitCode;
use std::time::Duration;

use countersign_proxy::config::{Cli, Command, RunArgs, WaitArgs};
use countersign_proxy::init::Answer;
use countersign_proxy::init::args::InitArgs;
use countersign_proxy::{App, Config, admin, init};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::read();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    match cli.command {
        Command::Run(args) => runtime.block_on(run(*args)),
        Command::Wait(args) => runtime.block_on(wait(args)),
        Command::Init(args) => redirect(&args),
    }
}

/// Runs until SIGTERM, SIGINT or `POST /drain`. Exit code 0 after an orderly end.
async fn run(args: RunArgs) -> ExitCode {
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    hide_memory();
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => return fail(error),
    };
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return fail(error),
        };
    let running = match App::bind(config).await.and_then(App::run) {
        Ok(running) => running,
        Err(error) => return fail(error),
    };
    tracing::info!(addresses = ?running.addresses, "the sidecar serves");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = running.asked_to_end() => {}
    }
    tracing::info!("draining: no new connections, requests in flight go on");
    if !running.shutdown().await {
        tracing::warn!("some requests were cut off at the end of the drain");
    }
    ExitCode::SUCCESS
}

/// Tokens and keys are in our memory: no core file shows them, and no process of our own user reads them by ptrace or
/// `/proc/PID/mem` (security OUT-13).
fn hide_memory() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core files and debuggers of the same user can show tokens: the process stays dumpable");
    }
}

/// Asks `/readyz` until it says yes.
async fn wait(args: WaitArgs) -> ExitCode {
    let limit = Duration::from_secs(args.timeout);
    let ready = async {
        while !admin::is_ready(args.admin).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(limit, ready).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => {
            eprintln!("countersign-proxy: not ready within {limit:?}; ask http://{}/readyz why", args.admin);
            ExitCode::from(1)
        }
    }
}

/// Installs, checks or removes the redirect. Exit code 1 where it is not as asked, 2 where that could not be found out or
/// done.
fn redirect(args: &InitArgs) -> ExitCode {
    match init::run(args) {
        Ok(Answer::Yes(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Answer::No(differences)) => {
            differences.iter().for_each(|difference| println!("{difference}"));
            eprintln!(
                "countersign-proxy: init: the rules are not those asked for: run init again without --check"
            );
            ExitCode::from(1)
        }
        Err(error) => fail(format!("init: {error}")),
    }
}

/// Our own words, and of what we are built on only errors: h2 warns of frames that any stranger may send.
const LOG: &str = "error,countersign=info";

fn fail(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("countersign-proxy: {error}");
    ExitCode::from(2)
}
