//! Runs every scenario on every target in turn, on the same machine, within the same minutes.

use std::{io::Write as _, path::Path};

use anyhow::Result;

use crate::{
    arguments::{Arguments, Run},
    cluster::Cluster,
    process::Server,
    report::{Failure, Report},
    scenario::{self, Adjust, Env, Measures, Needs, Scenario},
};

/// Runs it all; an error is only what keeps the run itself from going on.
pub(crate) async fn run(arguments: &Arguments, run: &Run) -> Result<Report> {
    if let Some(profiles) = &run.profiles {
        std::fs::create_dir_all(profiles)?;
    }
    let mut report = Report {
        machine: machine(),
        targets: run.targets.iter().map(|(label, _)| label.clone()).collect(),
        rounds: run.rounds,
        is_short: run.is_short,
        rows: Vec::new(),
        failures: Vec::new(),
    };
    for round in 0..run.rounds {
        for scenario in &run.scenarios {
            let mut peak = None;
            for target in 0..run.targets.len() {
                let label = &run.targets[target].0;
                progress(&format!(
                    "round {}: {} on {label}",
                    round + 1,
                    scenario.name
                ));
                match measure(arguments, run, scenario, target, &mut peak).await {
                    Ok(measures) => {
                        progress(&format!("  {measures:.2?}"));
                        for (measure, value) in measures {
                            report.add(scenario.name, measure, target, round, value);
                        }
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        progress(&format!("  failed: {error}"));
                        let (scenario, target) = (scenario.name, label.clone());
                        report.failures.push(Failure {
                            scenario,
                            target,
                            round,
                            error,
                        });
                    }
                }
            }
        }
    }
    Ok(report)
}

/// One scenario on a fresh server, or on fresh members, of one target.
async fn measure(
    arguments: &Arguments,
    run: &Run,
    scenario: &Scenario,
    target: usize,
    peak: &mut Option<f64>,
) -> Result<Measures> {
    let (label, program) = &run.targets[target];
    let mut server = None;
    let mut cluster = None;
    let (endpoint, pid) = if scenario.needs == Needs::Cluster {
        let members = Cluster::start(program, &run.directory, scenario.flags).await?;
        let leader = members.leader().await?;
        let endpoint = members.endpoints()[leader].to_owned();
        cluster = Some(members);
        (endpoint, None)
    } else {
        let started = Server::start(program, &run.directory, scenario.flags).await?;
        let (endpoint, pid) = (started.endpoint.clone(), started.pid()?);
        server = Some(started);
        (endpoint, Some(pid))
    };
    let profile = run.profiles.as_deref();
    let mut env = Env {
        endpoint,
        pid,
        server,
        cluster,
        is_short: run.is_short,
        peak: *peak,
        stock_tool: arguments.stock_tool.clone(),
        adjust: Adjust::default(),
        profile: profile.map(|into: &Path| scenario::profile_file(into, scenario.name, label)),
        seed: arguments.seed,
    };
    let measures = (scenario.run)(&mut env).await?;
    *peak = env.peak;
    if let Some(mut server) = env.server {
        server.stop().await?;
    }
    if let Some(cluster) = env.cluster {
        cluster.finish()?;
    }
    Ok(measures)
}

/// What the figures were taken on.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cpus} CPUs ({}), Linux {}",
        model.trim_start_matches(['\t', ':', ' ']),
        kernel.trim()
    )
}

fn progress(line: &str) {
    // Nobody to tell when even stderr is gone.
    drop(writeln!(std::io::stderr(), "{line}"));
}
