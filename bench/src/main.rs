//! `trilith-bench`: a load generator for any etcd endpoint, and the side-by-side run.

mod arguments;
mod client;
mod cluster;
mod load;
mod payload;
mod perf;
mod process;
mod report;
mod scenario;
mod side_by_side;
mod syncs;
mod targets;
mod wire;

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};

use crate::{
    arguments::{Arguments, Command, LoadOne, Run, USAGE},
    scenario::{Env, SCENARIOS},
};

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        return print(USAGE);
    }
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match &arguments.command {
            Command::Run(run) => side_by_side(&arguments, run).await,
            Command::Load(load) => load_one(&arguments, load).await,
            Command::List => list(),
        }
    })
}

async fn side_by_side(arguments: &Arguments, run: &Run) -> Result<()> {
    let report = side_by_side::run(arguments, run).await?;
    if let Some(file) = &run.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    print(&format!(
        "{}\n{}",
        report.machine,
        report.table(run.is_markdown)
    ))?;
    // Figures are for people to judge; an operation that failed is an error of the run.
    ensure!(
        report.failures.is_empty(),
        "{} loads failed",
        report.failures.len()
    );
    Ok(())
}

async fn load_one(arguments: &Arguments, load: &LoadOne) -> Result<()> {
    let mut env = Env {
        endpoint: load.endpoint.clone(),
        server: None,
        cluster: None,
        pid: load.pid,
        is_short: load.is_short,
        peak: None,
        stock_tool: arguments.stock_tool.clone(),
        adjust: load.adjust.clone(),
        profile: None,
        seed: arguments.seed,
    };
    for (measure, value) in (load.scenario.run)(&mut env).await? {
        print(&format!("{measure:<24} {value:.2}\n"))?;
    }
    Ok(())
}

fn list() -> Result<()> {
    SCENARIOS
        .iter()
        .try_for_each(|one| print(&format!("{:<18} {}\n", one.name, one.about)))
}

fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
