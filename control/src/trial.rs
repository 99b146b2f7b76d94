//! Does policy say what its tests expect? The command `test`: every `PolicyTest` among the files, tried offline.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use countersign_policy::headers::Underscores;
use countersign_policy::trial::{Outcome, PolicyCoverage};

use crate::check::{self, print};
use crate::junit;

/// Prints failures and coverage, and writes them as JUnit XML where a file is named. The answer is 0 or 1; a path that is
/// not there is an error of usage.
pub fn run(paths: &[PathBuf], underscores: Underscores, report: Option<&Path>) -> Result<ExitCode, String> {
    check::exist(paths)?;
    // All paths are one version, as in `check`.
    let outcome = match check::check(paths, underscores) {
        Ok(checked) => checked.outcome,
        Err(problems) => {
            check::tell(&problems);
            return Ok(ExitCode::from(1));
        }
    };
    if outcome.tests.is_empty() {
        print(&mut io::stderr(), "there is no document of kind PolicyTest: nothing was tested");
        return Ok(ExitCode::from(1));
    }
    if let Some(file) = report {
        fs::write(file, junit::render(&outcome)).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    check::tell(outcome.failures());
    say(&outcome, &mut io::stdout());
    Ok(if outcome.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn say(outcome: &Outcome, to: &mut impl Write) {
    let rules: usize = outcome.coverage.iter().map(|policy| policy.rules).sum();
    let missed: usize = outcome.coverage.iter().map(|policy| policy.missed.len()).sum();
    for policy in outcome.coverage.iter().filter(|policy| !policy.missed.is_empty()) {
        say_missed(policy, to);
    }
    print(to, &format!("coverage: {} of {rules} rules hit", rules - missed));
    print(to, &format!("{} passed, {} failed", outcome.passed(), outcome.failed()));
}

fn say_missed(policy: &PolicyCoverage, to: &mut impl Write) {
    if !policy.is_tested {
        print(to, &format!("{}: no test selects it ({} rules)", policy.policy, policy.rules));
        return;
    }
    for problem in &policy.missed {
        print(to, &problem.to_string());
    }
}

#[cfg(test)]
mod tests;
