//! A study stopped anywhere and resumed is the study that was never stopped, to the byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Bed, run};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const JOURNAL: &str = "study/journal.jsonl";

/// The journal of the study when nothing disturbs it.
fn undisturbed(bed: &Bed) -> Vec<u8> {
    run(bed.tune("whole").args(["--jobs", "2"])).ends_with(0);
    bed.read("whole/journal.jsonl")
}

fn lines(bed: &Bed) -> usize {
    std::fs::read(bed.path(JOURNAL)).map_or(0, |b| b.iter().filter(|&&c| c == b'\n').count())
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the journal has so many lines; false if the study ended before.
fn wait_for(bed: &Bed, wanted: usize, child: &mut Child) -> bool {
    let begun = Instant::now();
    while lines(bed) < wanted {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "the journal does not grow");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn interrupt(child: &Child) {
    let sent = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_study_killed_at_any_moment_and_resumed_has_the_journal_of_one_never_stopped() {
    let bed = Bed::new();
    let whole = undisturbed(&bed);
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let mut killed = 0;
    // The first kill comes before a trial is done, the others some lines further each; the pause lets a line be half-way.
    for more in [0, 1, 3, 4] {
        let wanted = lines(&bed) + more;
        let mut child = start(bed.tune("study").args(["--jobs", "2"]));
        let alive = wait_for(&bed, wanted, &mut child);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..120)));
        killed += usize::from(alive && child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let so_far = std::fs::read(bed.path(JOURNAL)).unwrap_or_default();
        assert!(whole.starts_with(&so_far), "what a killed study wrote is not the beginning of the whole journal");
    }
    assert!(killed >= 3, "only {killed} kills met the study at work");
    run(bed.tune("study").args(["--jobs", "2"])).ends_with(0);
    assert!(bed.read(JOURNAL) == whole, "the journals differ");
    assert_eq!(bed.read_json("study/front.json")["front"], bed.read_json("whole/front.json")["front"]);
}

#[test]
fn one_job_and_two_jobs_give_the_same_journal_and_the_same_front() {
    let bed = Bed::new();
    let whole = undisturbed(&bed);
    run(bed.tune("study").args(["--jobs", "1"])).ends_with(0);
    assert!(bed.read(JOURNAL) == whole, "the journals differ");
    let (one, two) = (bed.read_json("study/front.json"), bed.read_json("whole/front.json"));
    ["front", "chosen", "verdict", "cloud", "rollback", "layers", "facts"].iter().for_each(|key| assert_eq!(one[key], two[key], "{key}"));
}

#[test]
fn an_interrupted_study_finishes_the_trial_at_hand_and_says_how_to_go_on() {
    let bed = Bed::new();
    let whole = undisturbed(&bed);
    let mut child = start(bed.tune("study").args(["--jobs", "1"]));
    assert!(wait_for(&bed, 4, &mut child));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let go_on = format!("gulliver tune {} --study {}", bed.path("spec.yaml").display(), bed.path("study").display());
    assert!(said.contains("finishing the trials at hand") && said.contains(&go_on), "{said}");
    assert_eq!(bed.read_json("study/front.json")["stop"]["reason"], "interrupted");
    assert!(bed.path("study/report.html").is_file());
    let so_far = bed.read(JOURNAL);
    assert!(so_far.ends_with(b"\n") && whole.starts_with(&so_far) && so_far.len() < whole.len());
    run(bed.tune("study").args(["--jobs", "1"])).ends_with(0);
    assert!(bed.read(JOURNAL) == whole, "the journals differ");
}

#[test]
fn a_finished_study_goes_on_when_more_trials_are_asked_for() {
    let bed = Bed::new();
    run(bed.tune("study").args(["--trials", "6"])).ends_with(0);
    let first = bed.read(JOURNAL);
    run(bed.tune("study").args(["--trials", "6"])).ends_with(0);
    assert!(bed.read(JOURNAL) == first, "a finished study wrote more trials");
    run(bed.tune("study").args(["--trials", "10"])).ends_with(0);
    let second = bed.read(JOURNAL);
    assert!(second.len() > first.len() && second.starts_with(&first));
    let searched = String::from_utf8(second).unwrap().lines().filter(|l| l.contains("\"origin\":\"search\"")).count();
    assert_eq!(searched, 10);
}
