//! What is Countersign for? Everything on one machine, told in eight steps: run it with `cargo demo`.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

mod client;
mod policies;
mod services;
mod stage;
mod steps;
mod story;

use stage::Stage;
use story::Story;

/// Two services that know nothing of OAuth, a sidecar beside each, and a control plane that issues tokens.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", version)]
struct Cli {
    /// End after the last step: exit code 0, or 1 if any went otherwise
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Quiet unless asked: `COUNTERSIGN_LOG=info cargo demo`.
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(&cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the demo cannot go on: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: &Cli) -> io::Result<ExitCode> {
    let mut story = Story::on_stdout();
    let mut stage = Stage::set().await?;
    introduce(&mut story, &stage);
    let told = tokio::select! {
        told = steps::all(&mut stage, &mut story) => Some(told),
        _ = tokio::signal::ctrl_c() => None,
    };
    let Some(told) = told else {
        stage.end().await;
        return Ok(ExitCode::from(130));
    };
    told?;
    let failed = story.failed().to_vec();
    story.line("");
    match failed.as_slice() {
        [] => story.line("All eight steps came out as told."),
        failed => story.line(&format!("These steps went otherwise: {failed:?}")),
    }
    if !cli.once {
        stage.start_control().await?;
        invite(&mut story, &stage);
        tokio::signal::ctrl_c().await?;
    }
    stage.end().await;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn introduce(story: &mut Story, stage: &Stage) {
    let ports = &stage.ports;
    let port = |address: std::net::SocketAddr| format!(":{}", address.port());
    story.line(
        "Two services that know nothing of OAuth, a sidecar beside each, a control plane with an issuer.",
    );
    story.line("");
    story.line("   you ──> checkout ──> sidecar ── token ──> sidecar ──> orders");
    story.line(&format!(
        "           {:<12} {:<20} {:<11} {}",
        port(ports.checkout),
        port(ports.checkout_outbound),
        port(ports.orders_inbound),
        port(ports.orders)
    ));
}

fn invite(story: &mut Story, stage: &Stage) {
    let ports = &stage.ports;
    let policies = stage.policies.folder().display().to_string();
    story.line("");
    story.line("Everything is still up. To play with it, in another terminal:");
    for line in [
        format!("curl -i http://{}/buy            # or /list /cancel /old-list", ports.checkout),
        format!("curl -i http://{}/orders         # past checkout, without a token", ports.orders_inbound),
        format!(
            "curl -s http://{}/tokens         # also /snapshot /metrics /explain?decision=ID",
            ports.checkout_admin
        ),
        format!("curl -s http://{}/metrics        # of orders' sidecar", ports.orders_admin),
        format!(
            "curl -s http://{}/problems       # of the control plane; also /v1/workloads",
            ports.control_admin
        ),
        format!("curl -sk https://{}/oauth2/jwks  # the issuer's keys", ports.control),
        format!("$EDITOR {policies}/orders.yaml"),
    ] {
        story.line(&format!("   {line}"));
    }
    story.line("Ctrl-C ends it.");
}
