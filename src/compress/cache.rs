//! Results already computed, by the content they were computed from: in memory, and for those worth it in a folder.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use ndarray::{Array1, ArrayBase, ArrayD, Data, Dimension};
use ndarray_npy::{NpzReader, NpzWriter};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A cache of bounded size, shared between threads; emptied when it grows over its limit.
#[derive(Debug)]
pub struct Cache<T> {
    made: Mutex<(HashMap<Key, Slot<T>>, usize)>,
    shelf: Option<Shelf>,
}

/// One result; whoever makes it holds the lock, so that nothing is made twice.
type Slot<T> = Arc<Mutex<Option<Arc<T>>>>;

/// What a result was computed from.
pub type Key = [u8; 32];

/// A folder of results, a file each, named by their keys.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// The folder; made when the first result is written.
    pub folder: PathBuf,
    /// Whether new results are written, and not only read.
    pub writes: bool,
}

/// A result that a folder can keep: as arrays of numbers.
pub trait Shelved: Sized {
    /// Its arrays, in order.
    fn to_arrays(&self) -> Vec<ArrayD<f32>>;
    /// The result of such arrays; none if they are not what [`Shelved::to_arrays`] gives.
    fn from_arrays(arrays: Vec<ArrayD<f32>>) -> Option<Self>;
}

/// The key of an array and of a few numbers that say what is computed from it.
pub fn key<S: Data<Elem = f32>, D: Dimension>(array: &ArrayBase<S, D>, settings: &[u64]) -> Key {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    array.shape().iter().for_each(|&d| hash.update((d as u64).to_le_bytes()));
    settings.iter().for_each(|s| hash.update(s.to_le_bytes()));
    let bytes: Vec<u8> = array.iter().flat_map(|v| v.to_le_bytes()).collect();
    hash.update(&bytes);
    hash.finalize().into()
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { made: Mutex::new((HashMap::new(), 0)), shelf: None }
    }
}

impl<T> Cache<T> {
    /// Bytes the results may take.
    const LIMIT: usize = 256 << 20;

    /// The result of a key: found, or made and kept. `bytes` says how large it is.
    ///
    /// # Errors
    /// Whatever making it ran into.
    pub fn get(&self, key: Key, make: impl FnOnce() -> Result<T>, bytes: impl FnOnce(&T) -> usize) -> Result<Arc<T>> {
        let slot = Arc::clone(lock(&self.made).0.entry(key).or_default());
        let mut own = lock(&slot);
        if let Some(found) = &*own {
            return Ok(Arc::clone(found));
        }
        let new = Arc::new(make()?);
        *own = Some(Arc::clone(&new));
        drop(own);
        let size = bytes(&new);
        let mut made = lock(&self.made);
        if made.1 + size > Self::LIMIT {
            *made = (HashMap::new(), 0);
            made.0.insert(key, slot);
        }
        made.1 += size;
        Ok(new)
    }
}

impl<T: Shelved> Cache<T> {
    /// From now on results are also looked for in a folder; those in memory are forgotten.
    pub fn keep_in(&mut self, shelf: Shelf) {
        *self = Self { shelf: Some(shelf), ..Self::default() };
    }

    /// As [`Cache::get`], looking in the folder before anything is made. What cannot be read there is made again.
    ///
    /// # Errors
    /// Whatever making it ran into, or if it cannot be written.
    pub fn get_kept(&self, key: Key, make: impl FnOnce() -> Result<T>, bytes: impl FnOnce(&T) -> usize) -> Result<Arc<T>> {
        let Some(shelf) = &self.shelf else { return self.get(key, make, bytes) };
        let make = || match shelf.load(key) {
            Some(found) => Ok(found),
            None => {
                let new = make()?;
                if shelf.writes {
                    shelf.save(key, &new)?;
                }
                Ok(new)
            }
        };
        self.get(key, make, bytes)
    }
}

impl Shelf {
    fn path(&self, key: Key) -> PathBuf {
        let name: String = key[..16].iter().map(|b| format!("{b:02x}")).collect();
        self.folder.join(format!("{name}.npz"))
    }

    fn load<T: Shelved>(&self, key: Key) -> Option<T> {
        let mut npz = NpzReader::new(BufReader::new(File::open(self.path(key)).ok()?)).ok()?;
        let count: Array1<u64> = npz.by_name("count").ok()?;
        let arrays = (0..*count.first()?).map(|i| npz.by_name(&i.to_string()).ok()).collect::<Option<Vec<ArrayD<f32>>>>()?;
        T::from_arrays(arrays)
    }

    /// Writes a result, whole or not at all.
    fn save<T: Shelved>(&self, key: Key, result: &T) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        let path = self.path(key);
        let unfinished = path.with_extension("npz.unfinished");
        let cannot = |e: String| Error::io("write", &unfinished)(std::io::Error::other(e));
        let mut npz = NpzWriter::new(BufWriter::new(File::create(&unfinished).map_err(Error::io("write", &unfinished))?));
        let arrays = result.to_arrays();
        npz.add_array("count", &Array1::from(vec![arrays.len() as u64])).map_err(|e| cannot(e.to_string()))?;
        for (i, array) in arrays.iter().enumerate() {
            npz.add_array(i.to_string(), array).map_err(|e| cannot(e.to_string()))?;
        }
        let mut file = npz.finish().map_err(|e| cannot(e.to_string()))?;
        file.flush().map_err(Error::io("write", &unfinished))?;
        drop(file);
        std::fs::rename(&unfinished, &path).map_err(Error::io("write", &path))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn threads_that_want_the_same_make_it_once() {
        let cache: Cache<usize> = Cache::default();
        let made = std::sync::atomic::AtomicUsize::new(0);
        let make = || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            Ok(made.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        };
        std::thread::scope(|s| (0..4).for_each(|_| drop(s.spawn(|| cache.get([7; 32], make, |_| 1).unwrap()))));
        assert_eq!(made.into_inner(), 1);
    }

    #[derive(Debug, PartialEq)]
    struct Numbers(ArrayD<f32>);

    impl Shelved for Numbers {
        fn to_arrays(&self) -> Vec<ArrayD<f32>> {
            vec![self.0.clone()]
        }
        fn from_arrays(arrays: Vec<ArrayD<f32>>) -> Option<Self> {
            arrays.into_iter().next().map(Numbers)
        }
    }

    #[test]
    fn what_a_folder_holds_is_not_made_again_and_a_broken_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf { folder: folder.path().join("options"), writes: true };
        let value = || Numbers(ndarray::array![[1.0_f32, -2.5]].into_dyn());
        let with = |make: &dyn Fn() -> Result<Numbers>| {
            let mut cache = Cache::default();
            cache.keep_in(shelf.clone());
            cache.get_kept([3; 32], make, |_| 8).map(|n| n.0.clone())
        };
        let never = || Err(Error::Internal("made again".into()));
        assert_eq!(with(&|| Ok(value())).unwrap(), value().0);
        assert_eq!(with(&never).unwrap(), value().0);
        std::fs::write(shelf.path([3; 32]), b"no zip file").unwrap();
        assert!(with(&never).is_err());
        assert_eq!(with(&|| Ok(value())).unwrap(), value().0);
    }
}
