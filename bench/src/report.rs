//! What a run found: a table for the terminal, one in markdown, and JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::targets::Bound;

/// All that a run found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// Labels of the targets; the first is the baseline.
    pub(crate) targets: Vec<String>,
    pub(crate) rounds: u64,
    pub(crate) is_short: bool,
    pub(crate) rows: Vec<Row>,
    /// Scenarios that could not be finished, and why.
    pub(crate) failures: Vec<Failure>,
}

/// One measure of one scenario.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) measure: &'static str,
    /// By target, then by round; `None` where the scenario failed.
    pub(crate) values: Vec<Vec<Option<f64>>>,
}

#[derive(Serialize)]
pub(crate) struct Failure {
    pub(crate) scenario: &'static str,
    pub(crate) target: String,
    pub(crate) round: u64,
    pub(crate) error: String,
}

impl Report {
    /// Notes `value` of `measure` for `target` (its index); rounds come one after the other.
    pub(crate) fn add(
        &mut self,
        scenario: &'static str,
        measure: &'static str,
        target: usize,
        round: u64,
        value: f64,
    ) {
        let is_it = |row: &Row| row.scenario == scenario && row.measure == measure;
        let index = self.rows.iter().position(is_it).unwrap_or_else(|| {
            let values = vec![vec![None; self.rounds as usize]; self.targets.len()];
            self.rows.push(Row {
                scenario,
                measure,
                values,
            });
            self.rows.len() - 1
        });
        self.rows[index].values[target][round as usize] = Some(value);
    }

    /// Lines of aligned columns, or of a markdown table.
    pub(crate) fn table(&self, is_markdown: bool) -> String {
        let mut head = vec!["scenario".to_owned(), "measure".to_owned()];
        head.extend(self.targets.iter().cloned());
        for target in self.targets.iter().skip(1) {
            head.push(format!("{target} / {}", self.targets[0]));
        }
        head.extend(["to reach".to_owned(), String::new()]);
        let rows = self.rows.iter().map(|row| self.cells(row));
        let cells: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let mut text = if is_markdown {
            markdown(&cells)
        } else {
            aligned(&cells)
        };
        for failure in &self.failures {
            let Failure {
                scenario,
                target,
                round,
                error,
            } = failure;
            // A String takes everything.
            let _ = writeln!(
                text,
                "\nFAILED {scenario} on {target}, round {round}: {error}"
            );
        }
        text
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mut cells = vec![row.scenario.to_owned(), row.measure.to_owned()];
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), number);
        cells.extend((0..self.targets.len()).map(|target| shown(row.median(target))));
        let ratios: Vec<_> = (1..self.targets.len())
            .map(|target| row.ratio(target))
            .collect();
        cells.extend(ratios.iter().map(|&ratio| shown(ratio)));
        // A short run shows that everything works; its figures say nothing.
        let bound = Bound::find(row.scenario, row.measure).filter(|_| !self.is_short);
        cells.push(bound.map(|bound| bound.to_string()).unwrap_or_default());
        let verdict = |bound: Bound| {
            let ratio = *ratios.first()?;
            let (value, _) = row.median(1).zip(row.median(0))?;
            // Of what the baseline has nothing of, there is no ratio: nothing is as good.
            let ratio = ratio.unwrap_or(if value > 0.0 { f64::INFINITY } else { 0.0 });
            Some(if bound.is_met(value, ratio) {
                "met"
            } else {
                "MISSED"
            })
        };
        cells.push(bound.and_then(verdict).unwrap_or_default().to_owned());
        cells
    }
}

impl Row {
    /// The median over the rounds that `target` finished.
    fn median(&self, target: usize) -> Option<f64> {
        median(self.values[target].iter().flatten().copied().collect())
    }

    /// The median of `target`'s ratios to the baseline, each within one round: the machine may
    /// be slower in one round than in the next, but hardly within one. `None` when there is no
    /// round in which the baseline has more than nothing.
    fn ratio(&self, target: usize) -> Option<f64> {
        let pairs = self.values[target].iter().zip(&self.values[0]);
        let ratio = |(value, base): (&Option<f64>, &Option<f64>)| {
            let base = base.filter(|&base| base != 0.0)?;
            Some((*value)? / base)
        };
        median(pairs.filter_map(ratio).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[low] + values[high]) / 2.0)
}

/// Three or more significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn aligned(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in cells {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column < 2 {
                text.push_str(&format!("{cell:<width$}  "));
            } else {
                text.push_str(&format!("{cell:>width$}  "));
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn markdown(cells: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if number == 0 {
            let rule = row
                .iter()
                .enumerate()
                .map(|(i, _)| if i < 2 { "---" } else { "---:" });
            text.push_str(&format!("| {} |\n", rule.collect::<Vec<_>>().join(" | ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report {
            machine: String::new(),
            targets: vec!["etcd".into(), "trilith".into()],
            rounds: 3,
            is_short: false,
            rows: Vec::new(),
            failures: Vec::new(),
        };
        for (round, (etcd, trilith)) in [(10.0, 20.0), (30.0, 30.0), (20.0, 44.0)]
            .iter()
            .enumerate()
        {
            report.add("put-100", "rate_per_s", 0, round as u64, *etcd);
            report.add("put-100", "rate_per_s", 1, round as u64, *trilith);
        }
        report
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        let report = report();
        assert_eq!(report.rows[0].median(0), Some(20.0));
        assert_eq!(report.rows[0].ratio(1), Some(2.0));
    }

    #[test]
    fn nothing_is_as_good_as_nothing_and_anything_is_worse() {
        let mut report = report();
        report.rows.clear();
        report.rounds = 1;
        report.add("cluster-idle", "syncs_per_s", 0, 0, 0.0);
        report.add("cluster-idle", "syncs_per_s", 1, 0, 0.0);
        let table = report.table(true);
        assert!(
            table.contains("| 0.00 | 0.00 | - | <= 0.5 | met |"),
            "{table}"
        );
        report.add("cluster-idle", "syncs_per_s", 1, 0, 0.1);
        let table = report.table(true);
        assert!(table.contains("| 0.10 | - | <= 0.5 | MISSED |"), "{table}");
    }

    #[test]
    fn a_baseline_alone_has_no_ratio_and_no_verdict() {
        let mut report = report();
        report.targets.truncate(1);
        report.rows[0].values.truncate(1);
        assert!(
            report
                .table(true)
                .contains("| put-100 | rate_per_s | 20.0 | >= 1.7 |  |")
        );
    }

    #[test]
    fn the_table_says_whether_a_target_is_met() {
        let table = report().table(true);
        assert!(table.contains("| 2.00 | >= 1.7 | met |"), "{table}");
    }
}
