//! Runs of the simulation, and scenarios in it.

use std::panic::catch_unwind;

use super::*;

/// Runs per size; `TRILITH_SIM_SEEDS` asks for more.
fn seeds() -> u64 {
    let asked = std::env::var("TRILITH_SIM_SEEDS");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

const ALL: Faults = Faults {
    crashes: true,
    losses: true,
    lying_disks: false,
};

fn run(seed: u64, members: u64, steps: u64, faults: Faults) -> Result<World, String> {
    run_with_spares(seed, members, 0, steps, faults)
}

fn run_with_spares(
    seed: u64,
    members: u64,
    spares: u64,
    steps: u64,
    faults: Faults,
) -> Result<World, String> {
    let mut world = World::new(seed, members, spares, faults);
    for step in 0..steps {
        world
            .step()
            .map_err(|error| format!("seed {seed}, step {step}: {error}"))?;
    }
    world
        .settle()
        .map_err(|error| format!("seed {seed}, in the end: {error}"))?;
    Ok(world)
}

#[test]
fn acknowledged_entries_survive_all_faults_in_clusters_of_every_size() {
    for members in [1, 2, 3, 5] {
        let mut acknowledged = 0;
        for seed in 0..seeds() {
            eprintln!("{members} members, seed {seed}");
            let world = run(seed, members, 4000, ALL).unwrap();
            acknowledged += world.acknowledged;
        }
        assert!(
            acknowledged > 500,
            "{members} members acknowledged only {acknowledged}"
        );
    }
}

#[test]
fn members_come_and_go_and_nothing_is_lost() {
    for voters in [1, 3] {
        let (mut joined, mut removed) = (0, 0);
        for seed in 0..seeds() {
            eprintln!("{voters} voters and 3 spares, seed {seed}");
            let world = run_with_spares(seed, voters, 3, 8000, ALL).unwrap();
            joined += world.joined.len() as u64 - voters;
            removed += world.removed.len();
        }
        assert!(
            joined > 10 && removed > 5,
            "only {joined} joined, {removed} were removed"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| run(seed, 3, 3000, ALL).unwrap().trace;
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

/// The checks would be worth nothing if they passed a disk that does not sync.
#[test]
fn a_disk_that_lies_about_syncing_is_found_out() {
    let faults = Faults {
        lying_disks: true,
        ..ALL
    };
    for members in [1, 3] {
        let found = (0..20).filter(|seed| {
            // raft-rs has checks of its own, which panic.
            let error = catch_unwind(|| run(*seed, members, 4000, faults).err());
            error.is_err() || error.is_ok_and(|error| error.is_some())
        });
        let found = found.count();
        assert!(
            found > 10,
            "{members} members: only {found} of 20 runs found it"
        );
    }
}
