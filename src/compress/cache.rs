//! Results already computed, by the content they were computed from.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ndarray::{ArrayBase, Data, Dimension};
use sha2::{Digest, Sha256};

use crate::error::Result;

/// A cache of bounded size, shared between threads; emptied when it grows over its limit.
#[derive(Debug)]
pub struct Cache<T> {
    made: Mutex<(HashMap<Key, Arc<T>>, usize)>,
}

/// What a result was computed from.
pub type Key = [u8; 32];

/// The key of an array and of a few numbers that say what is computed from it.
pub fn key<S: Data<Elem = f32>, D: Dimension>(array: &ArrayBase<S, D>, settings: &[u64]) -> Key {
    let mut hash = Sha256::new();
    array.shape().iter().for_each(|&d| hash.update((d as u64).to_le_bytes()));
    settings.iter().for_each(|s| hash.update(s.to_le_bytes()));
    let bytes: Vec<u8> = array.iter().flat_map(|v| v.to_le_bytes()).collect();
    hash.update(&bytes);
    hash.finalize().into()
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { made: Mutex::new((HashMap::new(), 0)) }
    }
}

impl<T> Cache<T> {
    /// Bytes the results may take.
    const LIMIT: usize = 512 << 20;

    /// The result of a key: found, or made and kept. `bytes` says how large it is.
    ///
    /// # Errors
    /// Whatever making it ran into.
    pub fn get(&self, key: Key, make: impl FnOnce() -> Result<T>, bytes: impl FnOnce(&T) -> usize) -> Result<Arc<T>> {
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().0.get(&key) {
            return Ok(Arc::clone(found));
        }
        let new = Arc::new(make()?);
        let size = bytes(&new);
        let mut made = lock();
        if made.1 + size > Self::LIMIT {
            *made = (HashMap::new(), 0);
        }
        if made.0.insert(key, Arc::clone(&new)).is_none() {
            made.1 += size;
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_made_once_for_each_content_and_setting() {
        let cache = Cache::default();
        let array = ndarray::array![1.0_f32, 2.0];
        let get = |settings: &[u64], value: i32| *cache.get(key(&array, settings), || Ok(value), |_| 4).unwrap();
        assert_eq!((get(&[8], 1), get(&[8], 2), get(&[4], 3)), (1, 1, 3));
        assert_ne!(key(&array, &[]), key(&ndarray::array![[1.0_f32, 2.0]], &[]));
    }
}
