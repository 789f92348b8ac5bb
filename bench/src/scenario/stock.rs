//! etcd's own benchmark tool as a second witness.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

use super::{Env, Measures};

/// A server that takes longer is cut off.
const TIME_LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn put(env: &mut Env) -> Result<Measures> {
    let Some(tool) = env.stock_tool.clone() else {
        bail!("etcd's benchmark tool is missing: name it in TRILITH_BENCHMARK or by --benchmark");
    };
    let total = env.adjust.total.unwrap_or(env.size(150_000));
    let clients = env.adjust.clients.unwrap_or(1_000);
    let connections = env.adjust.connections.unwrap_or(100);
    let meter = env.meter()?;
    let arguments = [
        format!("--endpoints={}", env.endpoint),
        format!("--clients={clients}"),
        format!("--conns={connections}"),
        "put".into(),
        format!("--total={total}"),
        format!("--val-size={}", env.adjust.value_size.unwrap_or(256)),
        format!(
            "--key-space-size={}",
            env.adjust.keys.unwrap_or(env.size(100_000))
        ),
        "--key-size=16".into(),
    ];
    let run = Command::new(&tool)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIME_LIMIT, run)
        .await
        .context("the benchmark tool does not end")?
        .with_context(|| format!("cannot run {}", tool.display()))?;
    let cpu = meter.stop()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {text}", tool.display());
    ensure!(
        !text.contains("Error distribution"),
        "operations failed: {text}"
    );
    let quantile = |name: &str| number_after(&text, name).map(|seconds| seconds * 1e6);
    let mut measures = vec![
        ("rate_per_s", number_after(&text, "Requests/sec:")?),
        ("p50_us", quantile("50% in")?),
        ("p99_us", quantile(" 99% in")?),
    ];
    measures.extend(cpu.map(|cpu| ("cpu_us_per_op", cpu / total as f64)));
    Ok(measures)
}

fn number_after(text: &str, label: &str) -> Result<f64> {
    let rest = text
        .split_once(label)
        .with_context(|| format!("no {label} in: {text}"))?
        .1;
    let number = rest.split_whitespace().next().unwrap_or_default();
    number
        .parse()
        .with_context(|| format!("no number after {label}"))
}
