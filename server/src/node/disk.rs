//! Watches the room that is left on the disks, so that clients are refused before a disk is full.
//!
//! A log or state that cannot be written ends the process. Long before that, requests which take
//! room are refused with etcd's `mvcc: database space exceeded` and the `NOSPACE` alarm is raised,
//! as for the quota; reads, deletes and compactions go on. Should a disk fill up all the same, by
//! somebody else's hand, a start finds a few MiB in a file that was put aside for it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FallocateFlags;

use super::error::NodeError;
use crate::api::SpaceGuard;
use crate::config::Config;
use crate::quota::DiskLow;

/// The disks of one member.
#[derive(Clone, Debug)]
pub(super) struct Disks {
    /// One or two, that of the data directory first; both may be on one disk.
    places: Vec<Place>,
    low: DiskLow,
}

/// A directory that is written to, and the file beside it that keeps room for a start.
#[derive(Clone, Debug)]
struct Place {
    directory: PathBuf,
    reserve: PathBuf,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    total: u64,
    free: u64,
}

impl Disks {
    /// The disks of data directory and log, which are there. Gives the reserve of a full disk free,
    /// so that the rest of the start has room.
    ///
    /// # Errors
    ///
    /// When a reserve is there and cannot be removed.
    pub(super) fn open(config: &Config) -> Result<Self, NodeError> {
        let mut places = vec![Place {
            reserve: config.data_dir.join(RESERVE),
            directory: config.data_dir.clone(),
        }];
        if let Some(log) = config.wal_dir.as_ref().filter(|log| log.exists()) {
            // The log's directory holds files of the engine only.
            let mut reserve = log.clone().into_os_string();
            reserve.push(".");
            reserve.push(RESERVE);
            places.push(Place {
                directory: log.clone(),
                reserve: reserve.into(),
            });
        }
        for place in &places {
            place.free_reserve_if_full()?;
        }
        let low = DiskLow::default();
        Ok(Self { places, low })
    }

    /// Whether one of them is nearly full; kept current by [`Self::watch`].
    pub(super) fn low(&self) -> DiskLow {
        self.low.clone()
    }

    /// Whether the disk of the data directory would not be nearly full with so many bytes more.
    pub(super) fn have_room_for(&self, bytes: u64) -> bool {
        let data = room(&self.places[0].directory);
        data.map_or(true, |room| {
            let free = room.free.saturating_sub(bytes);
            !Room { free, ..room }.is_low()
        })
    }

    /// Looks at the disks for as long as it is polled, the more often the less room there is.
    pub(super) async fn watch(self, space: SpaceGuard) {
        loop {
            // A disk that does not tell its room is taken for one that has some; it is asked again
            // soon.
            let room = |place: &Place| room(&place.directory).ok();
            let rooms: Vec<_> = self.places.iter().map(room).collect();
            let low = self.places.iter().zip(&rooms);
            let mut low = low.filter(|(_, room)| room.is_some_and(Room::is_low));
            let low = low.next().map(|(place, _)| place);
            let was_low = self.low.get();
            self.low.set(low.is_some());
            match low {
                Some(place) if !was_low => {
                    let path = place.directory.display();
                    tracing::warn!(%path, "the disk is nearly full; refusing what takes room");
                    space.raise().await;
                }
                Some(_) => {}
                None => {
                    if was_low {
                        tracing::info!("the disks have room again; the alarm can be disarmed");
                    }
                    let disks = self.clone();
                    let made = tokio::task::spawn_blocking(move || disks.make_reserves()).await;
                    if let Ok(Err(error)) = made {
                        tracing::warn!(%error, "cannot keep room for a start on a full disk");
                    }
                }
            }
            let after = |room: &Option<Room>| room.map_or(LOOK_AFTER_MIN, Room::look_after);
            let pause = rooms.iter().map(after).min();
            tokio::time::sleep(pause.unwrap_or(LOOK_AFTER_MAX)).await;
        }
    }

    fn make_reserves(&self) -> io::Result<()> {
        self.places.iter().try_for_each(Place::make_reserve)
    }
}

impl Place {
    fn free_reserve_if_full(&self) -> Result<(), NodeError> {
        let is_full = room(&self.directory).is_ok_and(|room| room.free < RESERVE_BYTES);
        if !is_full {
            return Ok(());
        }
        match fs::remove_file(&self.reserve) {
            Ok(()) => {
                let path = self.directory.display();
                tracing::warn!(%path, "the disk is full; the reserve is given free");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(NodeError::Reserve {
                path: self.reserve.display().to_string(),
                error,
            }),
        }
    }

    /// Puts room aside, if there is plenty and it was not done before.
    fn make_reserve(&self) -> io::Result<()> {
        let room = room(&self.directory)?;
        let left = Room {
            free: room.free.saturating_sub(RESERVE_BYTES),
            ..room
        };
        if self.reserve.exists() || left.is_low() {
            return Ok(());
        }
        // Renamed when it is whole: half a reserve would be taken for one.
        let fresh = self.reserve.with_extension("tmp");
        let file = File::create(&fresh)?;
        fill(&file)?;
        fs::rename(&fresh, &self.reserve)
    }
}

impl Room {
    fn is_low(self) -> bool {
        self.free < self.low_below()
    }

    fn low_below(self) -> u64 {
        (self.total / LOW_SHARE).clamp(LOW_BYTES_MIN, LOW_BYTES_MAX)
    }

    /// Nobody fills it sooner than that.
    fn look_after(self) -> Duration {
        let spare = self.free.saturating_sub(self.low_below());
        let millis = spare / FILLED_PER_MILLI;
        Duration::from_millis(millis).clamp(LOOK_AFTER_MIN, LOOK_AFTER_MAX)
    }
}

fn room(directory: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(Room {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Gives the file its blocks, by writing them where the file system knows no other way.
fn fill(mut file: &File) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; RESERVE_BYTES as usize];
            file.write_all(&zeros)
        }
        Err(error) => Err(error.into()),
    }
}

const RESERVE: &str = "reserve";

/// What a start writes before it answers: RocksDB's manifest and options, a few MiB of the log.
const RESERVE_BYTES: u64 = 16 << 20;

/// A disk is nearly full when less than this share of it is free, within two bounds: both memtables
/// and what a compaction writes before it deletes must still fit, and a large disk need not keep
/// more than that several times over.
const LOW_SHARE: u64 = 20;
const LOW_BYTES_MIN: u64 = 64 << 20;
const LOW_BYTES_MAX: u64 = 1 << 30;

/// What a fast client writes in between is a fraction of [`LOW_BYTES_MIN`].
const LOOK_AFTER_MIN: Duration = Duration::from_millis(50);

/// A disk with room for all that is written in this time is looked at no more often: that would be
/// most of what an idle member does.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(1);

/// Bytes in a millisecond, 4 GiB in a second: more than a disk of today takes.
const FILLED_PER_MILLI: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_by_share_within_bounds() {
        let low = |total: u64, free: u64| Room { total, free }.is_low();
        let (mib, gib) = (1_u64 << 20, 1_u64 << 30);
        assert!(low(400 * mib, 63 * mib) && !low(400 * mib, 64 * mib));
        assert!(low(10 * gib, 511 * mib) && !low(10 * gib, 513 * mib));
        assert!(low(1000 * gib, gib - 1) && !low(1000 * gib, gib));
    }

    #[test]
    fn the_less_room_the_sooner_it_is_looked_at_again() {
        let gib = 1_u64 << 30;
        let after = |free: u64| {
            Room {
                total: 100 * gib,
                free,
            }
            .look_after()
        };
        assert_eq!(after(0), LOOK_AFTER_MIN);
        assert_eq!(after(gib), LOOK_AFTER_MIN);
        assert_eq!(after(2 * gib), Duration::from_millis(256));
        assert_eq!(after(99 * gib), LOOK_AFTER_MAX);
    }

    #[test]
    fn a_reserve_is_made_once_and_takes_its_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place {
            directory: folder.path().to_path_buf(),
            reserve: folder.path().join(RESERVE),
        };
        place.make_reserve().expect("room for it");
        let made = fs::metadata(&place.reserve).expect("it is there");
        assert_eq!(made.len(), RESERVE_BYTES);
        place.make_reserve().expect("it is there already");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
