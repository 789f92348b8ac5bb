//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use crate::scenario::{self, Adjust, Needs, Scenario};

pub(crate) const USAGE: &str = "\
trilith-bench run --target LABEL=PROGRAM [--target LABEL=PROGRAM]... [options]
    starts each server in turn for every scenario; the first target is the baseline
  --only NAME,NAME...   these scenarios only
  --rounds N            medians over N rounds (1)
  --short               a fiftieth of every load: shows that all of it works, measures nothing
  --json FILE           all figures of all rounds
  --markdown            print the table in markdown
  --dir DIR             where data directories are made (the system's temporary directory)
  --perf DIR            record a profile of each server in each scenario into DIR
trilith-bench load NAME --endpoint HOST:PORT [options]
    runs one scenario against a server that is there
  --pid N               its process, for CPU time and memory
  --clients N  --connections N  --total N  --keys N  --value-size BYTES
                        change a key-value load
  --rate N              operations per second in open loop
trilith-bench list      names the scenarios
both:
  --benchmark PATH      etcd's own benchmark tool (TRILITH_BENCHMARK)
  --threads N           threads of the generator (1)
  --seed N              seed of keys and values (1)
";

/// What to do, and what both commands need for it.
pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) stock_tool: Option<PathBuf>,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
}

pub(crate) enum Command {
    Run(Run),
    Load(LoadOne),
    List,
}

/// The side-by-side run.
pub(crate) struct Run {
    /// Label and program; the first is the baseline.
    pub(crate) targets: Vec<(String, PathBuf)>,
    pub(crate) scenarios: Vec<&'static Scenario>,
    pub(crate) rounds: u64,
    pub(crate) is_short: bool,
    pub(crate) is_markdown: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) directory: PathBuf,
    pub(crate) profiles: Option<PathBuf>,
}

/// One load against a server that is there.
pub(crate) struct LoadOne {
    pub(crate) scenario: &'static Scenario,
    pub(crate) endpoint: String,
    pub(crate) pid: Option<u32>,
    pub(crate) is_short: bool,
    pub(crate) adjust: Adjust,
}

/// Every option with its value, as it came.
#[derive(Default)]
struct Raw {
    names: Vec<String>,
    targets: Vec<(String, PathBuf)>,
    only: Option<String>,
    rounds: Option<u64>,
    is_short: bool,
    is_markdown: bool,
    json: Option<PathBuf>,
    directory: Option<PathBuf>,
    profiles: Option<PathBuf>,
    endpoint: Option<String>,
    pid: Option<u32>,
    adjust: Adjust,
    stock_tool: Option<PathBuf>,
    threads: Option<usize>,
    seed: Option<u64>,
}

impl Arguments {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut raw = Raw::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            raw.take(argument, &mut arguments)?;
        }
        let names: Vec<&str> = raw.names.iter().map(String::as_str).collect();
        let command = match names[..] {
            ["run"] => Command::Run(raw.run()?),
            ["load", name] => Command::Load(raw.load(name)?),
            ["list"] => Command::List,
            _ => bail!("{USAGE}"),
        };
        let from_environment = || std::env::var_os("TRILITH_BENCHMARK").map(PathBuf::from);
        let stock_tool = raw.stock_tool.clone().or_else(from_environment);
        let threads = raw.threads.unwrap_or(1).max(1);
        Ok(Self {
            command,
            stock_tool,
            threads,
            seed: raw.seed.unwrap_or(1),
        })
    }
}

impl Raw {
    /// Takes one argument, and its value from `rest` if it has one.
    fn take(&mut self, argument: String, rest: &mut impl Iterator<Item = String>) -> Result<()> {
        let mut value = || {
            rest.next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--short" => self.is_short = true,
            "--markdown" => self.is_markdown = true,
            "--target" => {
                let target = value()?;
                let (label, program) = target
                    .split_once('=')
                    .context("--target wants LABEL=PROGRAM")?;
                self.targets.push((label.to_owned(), program.into()));
            }
            "--only" => self.only = Some(value()?),
            "--rounds" => self.rounds = Some(value()?.parse()?),
            "--json" => self.json = Some(value()?.into()),
            "--dir" => self.directory = Some(value()?.into()),
            "--perf" => self.profiles = Some(value()?.into()),
            "--endpoint" => self.endpoint = Some(value()?),
            "--pid" => self.pid = Some(value()?.parse()?),
            "--clients" => self.adjust.clients = Some(value()?.parse()?),
            "--connections" => self.adjust.connections = Some(value()?.parse()?),
            "--total" => self.adjust.total = Some(value()?.parse()?),
            "--keys" => self.adjust.keys = Some(value()?.parse()?),
            "--value-size" => self.adjust.value_size = Some(value()?.parse()?),
            "--rate" => self.adjust.rate = Some(value()?.parse()?),
            "--benchmark" => self.stock_tool = Some(value()?.into()),
            "--threads" => self.threads = Some(value()?.parse()?),
            "--seed" => self.seed = Some(value()?.parse()?),
            other if other.starts_with('-') => bail!("{other} is unknown\n\n{USAGE}"),
            _ => self.names.push(argument),
        }
        Ok(())
    }

    fn run(&self) -> Result<Run> {
        ensure!(!self.targets.is_empty(), "run needs at least one --target");
        let scenarios = match &self.only {
            Some(names) => names
                .split(',')
                .map(scenario::find)
                .collect::<Result<_>>()?,
            None => scenario::SCENARIOS.iter().collect(),
        };
        Ok(Run {
            targets: self.targets.clone(),
            scenarios,
            rounds: self.rounds.unwrap_or(1).max(1),
            is_short: self.is_short,
            is_markdown: self.is_markdown,
            json: self.json.clone(),
            directory: self.directory.clone().unwrap_or_else(std::env::temp_dir),
            profiles: self.profiles.clone(),
        })
    }

    fn load(&self, name: &str) -> Result<LoadOne> {
        let scenario = scenario::find(name)?;
        ensure!(
            scenario.needs == Needs::Endpoint,
            "{name} has to start its servers itself: use `run`"
        );
        let endpoint = self.endpoint.as_deref().context("load needs --endpoint")?;
        let endpoint = endpoint
            .strip_prefix("http://")
            .unwrap_or(endpoint)
            .to_owned();
        let (pid, is_short, adjust) = (self.pid, self.is_short, self.adjust.clone());
        Ok(LoadOne {
            scenario,
            endpoint,
            pid,
            is_short,
            adjust,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_run_names_its_targets_and_scenarios() {
        let arguments = parse("run --target etcd=/bin/etcd --only put-1,list --rounds 3");
        let Ok(Arguments {
            command: Command::Run(run),
            ..
        }) = arguments
        else {
            panic!("this is a run")
        };
        assert_eq!(
            run.targets,
            [("etcd".to_owned(), PathBuf::from("/bin/etcd"))]
        );
        assert_eq!(
            run.scenarios.iter().map(|one| one.name).collect::<Vec<_>>(),
            ["put-1", "list"]
        );
        assert_eq!(run.rounds, 3);
    }

    #[test]
    fn what_is_unknown_or_missing_is_refused() {
        for line in [
            "",
            "run",
            "run --target x",
            "load put-1",
            "load nothing --endpoint h:1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(
            parse("load million --endpoint h:1").is_err(),
            "it restarts the server"
        );
        assert!(
            parse("load cluster-put --endpoint h:1").is_err(),
            "it needs three members"
        );
        assert!(
            parse("run --target a=b --fast").is_err(),
            "an unknown option"
        );
    }
}
