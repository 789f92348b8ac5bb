//! Tests of the data directory.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ids::{ClusterId, MemberId};

fn identity() -> Identity {
    Identity {
        member_id: MemberId::new(7),
        cluster_id: ClusterId::new(8),
    }
}

fn create(dir: &DataDir) {
    let made: Result<(), DataDirError> = dir.create(&identity(), |fresh| {
        fs::write(fresh.log.join("first"), b"entries").unwrap();
        Ok(())
    });
    made.unwrap();
}

/// All names and contents below a directory.
fn listing(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(listing(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_new_member_is_there_with_its_identity_and_log_and_only_for_its_owner() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().join("deep/data");
    let dir = DataDir::lock(&root).unwrap();
    assert_eq!(dir.content().unwrap(), Content::Nothing);
    create(&dir);
    assert_eq!(dir.content().unwrap(), Content::Member(identity()));
    assert_eq!(fs::read(dir.log().join("first")).unwrap(), b"entries");
    assert!(!root.join(MEMBER_NEW).exists());
    dir.create_state().unwrap();
    for path in [root.clone(), root.join("member"), dir.log(), dir.state()] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, DIRECTORY_MODE, "{}", path.display());
    }
}

#[test]
fn a_second_process_is_refused_until_the_first_lets_go() {
    let root = tempfile::tempdir().unwrap();
    let first = DataDir::lock(root.path()).unwrap();
    let error = DataDir::lock(root.path()).unwrap_err();
    assert!(matches!(&error, DataDirError::Locked(path) if path == root.path()));
    assert!(
        error
            .to_string()
            .contains(&root.path().display().to_string())
    );
    drop(first);
    DataDir::lock(root.path()).unwrap();
}

#[test]
fn a_first_start_that_was_cut_off_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::lock(root.path()).unwrap();
    let cut: Result<(), DataDirError> = dir.create(&identity(), |fresh| {
        fs::write(fresh.log.join("half"), b"").unwrap();
        Err(DataDirError::NoLog(fresh.log.clone()))
    });
    cut.unwrap_err();
    assert_eq!(dir.content().unwrap(), Content::Nothing);
    create(&dir);
    assert_eq!(dir.content().unwrap(), Content::Member(identity()));
    assert!(!dir.log().join("half").exists());
}

#[test]
fn what_is_not_a_whole_member_is_refused_and_not_touched() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("identity is missing", |member| {
            fs::remove_file(member.join("identity")).unwrap()
        }),
        ("log is missing", |member| {
            fs::remove_dir_all(member.join("log")).unwrap()
        }),
        ("identity cannot be used: it is damaged", |member| {
            fs::write(member.join("identity"), b"trilith identity 1\n").unwrap();
        }),
        ("its format is 2", |member| {
            let body = "trilith identity 2\nand more\n";
            let sum = crc32c::crc32c(body.as_bytes());
            fs::write(member.join("identity"), format!("{body}crc32c {sum:08x}\n")).unwrap();
        }),
    ];
    for (text, damage) in cases {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(root.path()).unwrap();
        create(&dir);
        damage(&root.path().join("member"));
        let before = listing(root.path());
        let error = dir.content().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert!(
            error.contains(&root.path().display().to_string()),
            "{error}"
        );
        assert_eq!(listing(root.path()), before, "{text}");
    }
}

#[test]
fn an_empty_member_directory_is_as_good_as_none() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("member")).unwrap();
    let dir = DataDir::lock(root.path()).unwrap();
    assert_eq!(dir.content().unwrap(), Content::Nothing);
    create(&dir);
    assert_eq!(dir.content().unwrap(), Content::Member(identity()));
}

/// A data directory with what etcd would have left in it.
fn etcds() -> (tempfile::TempDir, DataDir) {
    let root = tempfile::tempdir().unwrap();
    let member = root.path().join("member");
    fs::create_dir_all(member.join("snap")).unwrap();
    fs::write(member.join("snap/db"), b"pages").unwrap();
    let dir = DataDir::lock(root.path()).unwrap();
    assert_eq!(dir.content().unwrap(), Content::Etcd(member));
    (root, dir)
}

#[test]
fn a_member_takes_the_place_of_etcds_whose_files_stay() {
    let (root, dir) = etcds();
    create(&dir);
    assert_eq!(dir.content().unwrap(), Content::Member(identity()));
    let kept = root.path().join(MEMBER_ETCD).join("snap/db");
    assert_eq!(fs::read(kept).unwrap(), b"pages");
}

#[test]
fn taking_etcds_place_goes_on_after_a_crash_between_its_two_steps() {
    let (root, dir) = etcds();
    create(&dir);
    let (member, fresh) = (root.path().join(MEMBER), root.path().join(MEMBER_NEW));
    fs::rename(&member, &fresh).unwrap();
    assert_eq!(dir.content().unwrap(), Content::Nothing);
    dir.resume().unwrap();
    assert_eq!(dir.content().unwrap(), Content::Member(identity()));

    // Without an identity the new one was never whole.
    fs::rename(&member, &fresh).unwrap();
    fs::remove_file(fresh.join(IDENTITY)).unwrap();
    dir.resume().unwrap();
    assert_eq!(dir.content().unwrap(), Content::Nothing);
}

#[test]
fn etcds_data_is_not_taken_over_twice() {
    let (root, dir) = etcds();
    fs::create_dir(root.path().join(MEMBER_ETCD)).unwrap();
    let before = listing(root.path());
    let refused: Result<(), DataDirError> = dir.create(&identity(), |_| Ok(()));
    assert!(matches!(refused, Err(DataDirError::Imported(_))));
    assert_eq!(listing(root.path()), before);
}
