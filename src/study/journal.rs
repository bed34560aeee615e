//! The journal: an append-only file, a line a trial, from which the state of a study follows.
//!
//! The first line carries the fingerprint of everything the trials depend on. A line counts once its newline is on
//! disk; a torn last line is dropped. There are no times in it: the same study gives the same bytes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    trial::Trial,
};

/// What a study's trials depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Version of the journal's format.
    pub journal: u32,
    /// Gulliver's version.
    pub gulliver: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
    /// SHA-256 of the spec less its paths and budgets.
    pub spec: String,
    /// SHA-256 of the model file.
    pub model: String,
    /// SHA-256 of the calibration data.
    pub calibration: String,
    /// SHA-256 of the validation data.
    pub validation: String,
    /// SHA-256 of the device profile.
    pub device: String,
}

/// An open journal, locked against other processes.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal of a study folder, or begins it. Returns the trials that are in it.
    ///
    /// # Errors
    /// If the journal is of another study, damaged before its last line, in use, or cannot be written.
    pub fn open(dir: &Path, fingerprint: &Fingerprint) -> Result<(Self, Vec<Trial>)> {
        let path = dir.join("journal.jsonl");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(Error::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::study(dir, "another gulliver is working on it", "wait for it, or give another --study folder"));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
        }
        // What the file says it holds, and not what a device put in its place would give without end.
        let length = file.metadata().map_err(Error::io("read", &path))?.len();
        let mut text = String::new();
        (&mut file).take(length).read_to_string(&mut text).map_err(Error::io("read", &path))?;
        let (old, trials, whole) = parse(dir, &text)?;
        let mut journal = Self { path, file };
        if let Some(old) = &old {
            check(dir, old, fingerprint)?;
        }
        if whole < text.len() {
            journal.file.set_len(whole as u64).map_err(Error::io("write", &journal.path))?;
        }
        journal.file.seek(SeekFrom::End(0)).map_err(Error::io("write", &journal.path))?;
        if old.is_none() {
            journal.write(fingerprint)?;
        }
        Ok((journal, trials))
    }

    /// Reads a journal without locking it.
    ///
    /// # Errors
    /// If there is none, or it is damaged before its last line.
    pub fn read(dir: &Path) -> Result<(Fingerprint, Vec<Trial>)> {
        let path = dir.join("journal.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let (fingerprint, trials, _) = parse(dir, &text)?;
        let fingerprint = fingerprint.ok_or_else(|| Error::study(dir, "its journal is empty", "run `gulliver tune` on it first"))?;
        Ok((fingerprint, trials))
    }

    /// Appends a trial; it is on disk when this returns.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&mut self, trial: &Trial) -> Result<()> {
        self.write(trial)
    }

    fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(value).map_err(|e| Error::Internal(format!("a journal line cannot be written: {e}")))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data()).map_err(Error::io("write", &self.path))
    }
}

/// Fingerprint, trials, and the length of the part that is whole.
fn parse(dir: &Path, text: &str) -> Result<(Option<Fingerprint>, Vec<Trial>, usize)> {
    let whole = text.rfind('\n').map_or(0, |i| i + 1);
    let mut lines = text[..whole].lines().enumerate();
    let damaged = |line: usize, e: serde_json::Error| {
        Error::study(
            dir,
            format!("journal.jsonl:{}: {e}", line + 1),
            "cut the file before this line to keep the trials above it, or begin a new study",
        )
    };
    let Some((_, first)) = lines.next() else { return Ok((None, Vec::new(), 0)) };
    let fingerprint = serde_json::from_str(first).map_err(|e| damaged(0, e))?;
    let mut trials = Vec::new();
    for (i, line) in lines {
        let trial: Trial = serde_json::from_str(line).map_err(|e| damaged(i, e))?;
        if trial.trial != trials.len() {
            let message = format!("journal.jsonl:{}: trial {} stands where trial {} belongs", i + 1, trial.trial, trials.len());
            return Err(Error::study(dir, message, "the file was changed by hand: begin a new study"));
        }
        trials.push(trial);
    }
    Ok((Some(fingerprint), trials, whole))
}

fn check(dir: &Path, old: &Fingerprint, new: &Fingerprint) -> Result<()> {
    let pairs = [
        ("the model", &old.model, &new.model),
        ("the spec", &old.spec, &new.spec),
        ("the calibration data", &old.calibration, &new.calibration),
        ("the validation data", &old.validation, &new.validation),
        ("the device profile", &old.device, &new.device),
        ("gulliver's version", &old.gulliver, &new.gulliver),
        ("ONNX Runtime's version", &old.onnxruntime, &new.onnxruntime),
    ];
    let changed: Vec<&str> = pairs.iter().filter(|(_, a, b)| a != b).map(|(what, _, _)| *what).collect();
    if changed.is_empty() && old.journal == new.journal {
        return Ok(());
    }
    let what = if changed.is_empty() { "the journal's format".to_string() } else { changed.join(" and ") };
    Err(Error::study(
        dir,
        format!("was begun with something else: {what} changed"),
        "give another --study folder, or put back what changed",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        space::Candidate,
        trial::{Cost, Origin, Outcome, Score},
    };

    fn fingerprint() -> Fingerprint {
        let s = || "x".to_string();
        Fingerprint { journal: 1, gulliver: s(), onnxruntime: s(), spec: s(), model: s(), calibration: s(), validation: s(), device: s() }
    }

    fn trial(n: usize) -> Trial {
        let score =
            Score { accuracy: 0.1 + 0.2, drop: 1.0 / 3.0, drop_low: Some(-0.1), drop_high: None, distance: Some(1.0 / 7.0), samples: 7 };
        let outcome = Outcome::Measured { score, cost: Cost { latency_ms: 0.1, bytes: 3 } };
        Trial { trial: n, round: n, origin: Origin::Search, candidate: Candidate(vec![1, 2]), predicted: Some(0.1), from: Some(0), outcome }
    }

    #[test]
    fn trials_come_back_to_the_last_digit() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, trials) = Journal::open(dir.path(), &fingerprint()).unwrap();
        assert!(trials.is_empty());
        journal.append(&trial(0)).unwrap();
        drop(journal);
        let (_, trials) = Journal::open(dir.path(), &fingerprint()).unwrap();
        assert_eq!(trials, vec![trial(0)]);
    }

    #[test]
    fn a_torn_last_line_is_dropped_wherever_it_tore() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(dir.path(), &fingerprint()).unwrap();
        journal.append(&trial(0)).unwrap();
        journal.append(&trial(1)).unwrap();
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (mut journal, trials) = Journal::open(dir.path(), &fingerprint()).unwrap();
            for n in trials.len()..2 {
                journal.append(&trial(n)).unwrap();
            }
            drop(journal);
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
    }

    #[test]
    fn a_foreign_journal_is_refused_by_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::open(dir.path(), &fingerprint()).unwrap());
        let other = Fingerprint { model: "y".into(), ..fingerprint() };
        let message = Journal::open(dir.path(), &other).unwrap_err().to_string();
        assert!(message.contains("the model changed"), "{message}");
    }

    #[test]
    fn damage_in_the_middle_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), &fingerprint()).unwrap();
        journal.append(&trial(0)).unwrap();
        drop(journal);
        let path = dir.path().join("journal.jsonl");
        let text = std::fs::read_to_string(&path).unwrap().replace("\"origin\"", "\"orgin\"") + "\n";
        std::fs::write(&path, text).unwrap();
        let message = Journal::open(dir.path(), &fingerprint()).unwrap_err().to_string();
        assert!(message.contains("journal.jsonl:2"), "{message}");
    }

    #[test]
    fn two_processes_cannot_share_a_study() {
        let dir = tempfile::tempdir().unwrap();
        let _open = Journal::open(dir.path(), &fingerprint()).unwrap();
        assert!(Journal::open(dir.path(), &fingerprint()).unwrap_err().to_string().contains("another gulliver"));
    }
}
