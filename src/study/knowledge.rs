//! What is known of a space before anything is measured, from the network and the chip: see [`Tables`].

use std::{path::Path, sync::atomic::AtomicBool};

use serde::{Deserialize, Serialize};

use super::{Event, Observe, folder::write_json, sensitivity::in_order};
use crate::{
    error::{Error, Result},
    evaluate::{Evaluator, Objective},
    search::{Tables, probe},
    space::{Candidate, Kind},
};

/// The tables of a study as a file keeps them.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    tables: Tables,
}

/// Makes the tables with so many threads, or reads them from a file if it has them under this key, and keeps them there. None when interrupted.
///
/// # Errors
/// If a layer's weight cannot be read, or a network not be run or priced.
pub fn tables(
    evaluator: &Evaluator,
    jobs: usize,
    interrupt: &AtomicBool,
    file: Option<(&Path, &str)>,
    observe: &mut dyn Observe,
) -> Result<Option<Tables>> {
    let kept = |(path, key): (&Path, &str)| {
        let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (kept.key == key).then_some(kept.tables)
    };
    if let Some(tables) = file.and_then(kept) {
        return Ok(Some(tables));
    }
    let space = evaluator.space();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    let pool = pool.map_err(|e| Error::Internal(format!("{jobs} threads cannot be started: {e}")))?;
    observe.event(Event::Preparing { what: "predicting what every option costs" });
    let options: Vec<usize> = space.axes.iter().map(|a| a.len()).collect();
    let parts = |c: &Candidate| evaluator.parts(&space.plan(c));
    let terms = probe::merged(pool.install(|| probe::probe(&options, &parts))?);
    observe.event(Event::Preparing { what: "predicting what every option does to the outputs" });
    let Some(error) = errors(evaluator, jobs, interrupt)? else { return Ok(None) };
    observe.event(Event::Preparing { what: "measuring how much of it reaches the output" });
    let damage = pool.install(|| evaluator.damage(&error))?;
    let tables = Tables { error, damage, terms, fixed_ms: 0.0, fixed_bytes: 0.0 };
    if let Some((path, key)) = file {
        write_json(path, &Kept { key: key.into(), tables: tables.clone() })?;
    }
    Ok(Some(tables))
}

/// Errors of all options alone. Where nothing was measured of a layer's inputs, the error is a guess, an option's place among its axis's: its
/// damage is then all from what is measured at the output.
fn errors(evaluator: &Evaluator, jobs: usize, interrupt: &AtomicBool) -> Result<Option<Vec<Vec<f64>>>> {
    let setup = evaluator.setup();
    let space = &setup.space;
    let mildest = setup.compressor.damage(&space.plan(&space.mildest()))?.unwrap_or(0.0);
    let all: Vec<(usize, usize)> = space.axes.iter().enumerate().flat_map(|(a, axis)| (0..axis.len()).map(move |o| (a, o))).collect();
    let error = |i: usize| -> Result<f64> {
        let (a, o) = all[i];
        let method = matches!(space.axes[a].kind(), Kind::Activations | Kind::Round | Kind::Balance);
        if o == 0 || method {
            return Ok(0.0);
        }
        let mut one = space.mildest();
        one.0[a] = u16::try_from(o).unwrap_or(0);
        let found = setup.compressor.damage(&space.plan(&one))?;
        Ok(found.map_or(o as f64 / space.axes[a].len() as f64, |d| (d - mildest).max(0.0)))
    };
    let found = in_order(all.len(), jobs, interrupt, &mut |_, _| (), error)?;
    if found.len() < all.len() {
        return Ok(None);
    }
    let mut found = found.into_iter();
    Ok(Some(space.axes.iter().map(|a| found.by_ref().take(a.len()).collect()).collect()))
}
