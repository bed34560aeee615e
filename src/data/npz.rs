//! Samples and labels from an npz file, NumPy's archive of arrays.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use ndarray::ArrayD;
use ndarray_npy::{ReadNpyExt, ReadableElement};
use zip::ZipArchive;
use zip::result::ZipError;

use super::source::Source;
use crate::error::{Error, Result};

/// Names of sample members, in the order errors list them; only one may be there unless `images` names it.
const IMAGES: [&str; 5] = ["images", "x", "data", "x_test", "x_train"];
/// More than DEFLATE can compress (1032 to 1): a member that claims to be larger is damaged or malicious.
const MAX_RATIO: u64 = 1040;
/// Bytes of a member's header; NumPy writes 128 for a plain array.
const MAX_HEADER: u64 = 65_536;

/// Stored values, `[samples, …]` flattened in C order.
#[derive(Debug)]
pub(super) enum Values {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

/// What an npz file held.
#[derive(Debug)]
pub(super) struct Npz {
    pub values: Values,
    /// Number of samples, then the shape of one.
    pub shape: Vec<usize>,
    pub labels: Option<Vec<u32>>,
}

struct Member {
    name: String,
    index: usize,
    dtype: String,
    shape: Vec<usize>,
}

/// Reads the sample and label members of `file`.
///
/// # Errors
/// The file is missing or not an npz; no member, or several, could be the samples; a member is of a type or rank we do not
/// take, damaged or not finite; labels are not as many as samples.
pub(super) fn read(file: &Path, source: &Source) -> Result<Npz> {
    let reader = BufReader::new(File::open(file).map_err(Error::io("read", file))?);
    let mut zip = ZipArchive::new(reader).map_err(|e| match e {
        ZipError::Io(e) => Error::io("read", file)(e),
        _ => Error::data(file, "is not an npz file", "save it with numpy.savez or numpy.savez_compressed"),
    })?;
    let members = members(&mut zip);
    let images = choose_images(&members, source.images.as_deref(), file)?;
    let values = match images.dtype.as_str() {
        "u1" => Values::Bytes(read_member::<u8>(&mut zip, images, file)?),
        "f4" => Values::Floats(read_member(&mut zip, images, file)?),
        "f8" => Values::Floats(read_member::<f64>(&mut zip, images, file)?.into_iter().map(|v| v as f32).collect()),
        other => {
            let message = format!("member {} holds {}", images.name, spoken(other));
            return Err(Error::data(file, message, "save it as uint8 or float32: array.astype(numpy.float32)"));
        }
    };
    let samples = images.shape.first().copied().unwrap_or(0);
    if samples == 0 {
        return Err(Error::data(
            file,
            format!("member {} of {:?} holds no samples", images.name, images.shape),
            "samples go along the first axis",
        ));
    }
    if let Values::Floats(values) = &values
        && let Some(at) = values.iter().position(|v| !v.is_finite())
    {
        let message = format!("member {} holds {} in sample {}", images.name, values[at], at / (values.len() / samples));
        return Err(Error::data(file, message, "remove or mend that sample"));
    }
    let labels = match choose_labels(&members, source.labels.as_deref(), &images.name, file)? {
        Some(member) => Some(read_labels(&mut zip, member, samples, file)?),
        None => None,
    };
    Ok(Npz { values, shape: images.shape.clone(), labels })
}

fn members(zip: &mut ZipArchive<BufReader<File>>) -> Vec<Member> {
    (0..zip.len()).filter_map(|index| member(zip, index)).collect()
}

/// The header of a member; none if it is not a plain array that fits the bytes it claims.
fn member(zip: &mut ZipArchive<BufReader<File>>, index: usize) -> Option<Member> {
    let mut file = zip.by_index(index).ok()?;
    let name = file.name().strip_suffix(".npy").unwrap_or(file.name()).to_owned();
    let room = file.size().min(file.compressed_size().saturating_mul(MAX_RATIO).saturating_add(MAX_RATIO));
    let mut start = [0; 12];
    file.read_exact(&mut start[..10]).ok()?;
    if &start[..6] != b"\x93NUMPY" {
        return None;
    }
    let length = if start[6] == 1 {
        u64::from(u16::from_le_bytes([start[8], start[9]]))
    } else {
        file.read_exact(&mut start[10..]).ok()?;
        u64::from(u32::from_le_bytes([start[8], start[9], start[10], start[11]]))
    };
    let mut header = String::new();
    if length > MAX_HEADER {
        return None;
    }
    file.take(length).read_to_string(&mut header).ok()?;
    let quoted = |key: &str| Some(header.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let dtype = quoted("'descr'")?.strip_prefix('\'')?.split_once('\'')?.0;
    let dtype = dtype.trim_start_matches(['<', '>', '|', '=']).to_owned();
    let shape = quoted("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
    let shape: Vec<usize> = shape.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?;
    let values = shape.iter().try_fold(1_u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?))?;
    let width: u64 = dtype.get(1..)?.parse().ok()?;
    (values.checked_mul(width)? <= room && !dtype.starts_with('U')).then_some(Member { name, index, dtype, shape })
}

fn choose_images<'a>(members: &'a [Member], named: Option<&str>, file: &Path) -> Result<&'a Member> {
    if let Some(name) = named {
        let found = members.iter().find(|m| m.name == name);
        return found
            .ok_or_else(|| Error::data(file, format!("has no readable member {name}, only {}", listed(members)), "correct images"));
    }
    let found: Vec<&Member> = members.iter().filter(|m| IMAGES.contains(&m.name.as_str())).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::data(
            file,
            format!("has no member named {}, only {}", IMAGES.join(", "), listed(members)),
            "name the member that holds the samples: images: NAME",
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|m| m.name.as_str()).collect();
            Err(Error::data(file, format!("holds several sets of samples: {}", names.join(", ")), "say which to use: images: NAME"))
        }
    }
}

fn choose_labels<'a>(members: &'a [Member], named: Option<&Path>, images: &str, file: &Path) -> Result<Option<&'a Member>> {
    let find = |name: &str| members.iter().find(|m| m.name == name);
    if let Some(name) = named {
        let name = name.to_string_lossy();
        let missing = || Error::data(file, format!("has no readable member {name}, only {}", listed(members)), "correct labels");
        return find(&name).ok_or_else(missing).map(Some);
    }
    let partner = if let Some(rest) = images.strip_prefix('x') { format!("y{rest}") } else { images.replace("images", "labels") };
    Ok([partner.as_str(), "labels", "y"].into_iter().filter(|name| *name != images).find_map(find))
}

fn read_labels(zip: &mut ZipArchive<BufReader<File>>, member: &Member, samples: usize, file: &Path) -> Result<Vec<u32>> {
    if !matches!(member.shape.as_slice(), [_] | [_, 1]) {
        let message = format!("labels in member {} are of shape {:?}", member.name, member.shape);
        return Err(Error::data(file, message, "give one class number a sample: array.argmax(axis=1) of one-hot labels"));
    }
    let wide = |labels: Vec<i64>| -> Result<Vec<u32>> {
        let checked = labels.iter().enumerate().map(|(sample, label)| {
            u32::try_from(*label).map_err(|_| {
                let message = format!("label {label} of sample {sample} in member {} is not a class number", member.name);
                Error::data(file, message, "labels count from 0")
            })
        });
        checked.collect()
    };
    let labels = match member.dtype.as_str() {
        "u1" => read_member::<u8>(zip, member, file)?.into_iter().map(u32::from).collect(),
        "i1" => wide(read_member::<i8>(zip, member, file)?.into_iter().map(i64::from).collect())?,
        "u2" => read_member::<u16>(zip, member, file)?.into_iter().map(u32::from).collect(),
        "i2" => wide(read_member::<i16>(zip, member, file)?.into_iter().map(i64::from).collect())?,
        "u4" => read_member::<u32>(zip, member, file)?,
        "i4" => wide(read_member::<i32>(zip, member, file)?.into_iter().map(i64::from).collect())?,
        "i8" => wide(read_member::<i64>(zip, member, file)?)?,
        other => {
            let message = format!("labels in member {} are {}", member.name, spoken(other));
            return Err(Error::data(file, message, "save them as integers: labels.astype(numpy.int64)"));
        }
    };
    if labels.len() != samples {
        let message = format!("has {samples} samples but {} labels in member {}", labels.len(), member.name);
        return Err(Error::data(file, message, "name the right member: labels: NAME"));
    }
    Ok(labels)
}

fn read_member<T: ReadableElement + Clone>(zip: &mut ZipArchive<BufReader<File>>, member: &Member, file: &Path) -> Result<Vec<T>> {
    let damaged = |reason: String| Error::data(file, format!("member {} is damaged: {reason}", member.name), "save the file again");
    let reader = zip.by_index(member.index).map_err(|e| damaged(e.to_string()))?;
    let array = ArrayD::<T>::read_npy(reader).map_err(|e| damaged(e.to_string()))?;
    Ok(if array.is_standard_layout() { array.into_raw_vec_and_offset().0 } else { array.iter().cloned().collect() })
}

fn listed(members: &[Member]) -> String {
    if members.is_empty() {
        return "no readable members at all".to_owned();
    }
    members.iter().map(|m| format!("{} ({} {:?})", m.name, spoken(&m.dtype), m.shape)).collect::<Vec<_>>().join(", ")
}

/// NumPy's name of a type from its code: `f4` is `float32`.
fn spoken(dtype: &str) -> String {
    let kind = match dtype.get(..1) {
        Some("f") => "float",
        Some("i") => "int",
        Some("u") => "uint",
        Some("b") => return "bool".to_owned(),
        _ => return format!("type {dtype}"),
    };
    let bits = dtype.get(1..).and_then(|bytes| bytes.parse::<u32>().ok()).unwrap_or(0);
    format!("{kind}{}", bits.saturating_mul(8))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ndarray::{Array2, Array4, ShapeBuilder, array};
    use ndarray_npy::{NpzWriter, WriteNpyExt};
    use tempfile::TempDir;

    use super::*;

    fn written(write: impl FnOnce(&mut NpzWriter<File>)) -> (TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.npz");
        let mut npz = NpzWriter::new_compressed(File::create(&path).unwrap());
        write(&mut npz);
        npz.finish().unwrap();
        (dir, path)
    }

    fn read_with(write: impl FnOnce(&mut NpzWriter<File>), source: Source) -> Result<Npz, String> {
        let (_dir, path) = written(write);
        read(&path, &source).map_err(|e| e.to_string().replace(&*path.to_string_lossy(), "d.npz"))
    }

    fn read_plain(write: impl FnOnce(&mut NpzWriter<File>)) -> Result<Npz, String> {
        read_with(write, Source::default())
    }

    fn complaint(write: impl FnOnce(&mut NpzWriter<File>)) -> String {
        read_plain(write).unwrap_err()
    }

    fn images(n: usize) -> Array4<u8> {
        Array4::from_shape_fn((n, 2, 2, 3), |(n, h, w, c)| (n * 12 + h * 6 + w * 3 + c) as u8)
    }

    #[test]
    fn bytes_stay_bytes_and_labels_of_any_integer_come_along() {
        let npz = read_plain(|z| {
            z.add_array("images", &images(2)).unwrap();
            z.add_array("labels", &array![3_i64, 7]).unwrap();
        })
        .unwrap();
        assert!(matches!(&npz.values, Values::Bytes(b) if b.len() == 24 && b[13] == 13));
        assert_eq!((npz.shape, npz.labels), (vec![2, 2, 2, 3], Some(vec![3, 7])));
        let column = read_plain(|z| {
            z.add_array("x", &images(2)).unwrap();
            z.add_array("y", &array![[1_u8], [2]]).unwrap();
        });
        assert_eq!(column.unwrap().labels, Some(vec![1, 2]));
    }

    #[test]
    fn doubles_become_floats_and_fortran_order_is_undone() {
        let mut fortran = Array2::<f64>::zeros((2, 3).f());
        fortran.assign(&array![[1., 2., 3.], [4., 5., 6.]]);
        let npz = read_plain(|z| z.add_array("data", &fortran).unwrap()).unwrap();
        assert!(matches!(npz.values, Values::Floats(v) if v == [1., 2., 3., 4., 5., 6.]));
        assert_eq!(npz.labels, None);
    }

    #[test]
    fn training_and_test_members_need_a_choice_and_bring_their_own_labels() {
        let both = |z: &mut NpzWriter<File>| {
            z.add_array("x_train", &images(3)).unwrap();
            z.add_array("y_train", &array![1_u8, 2, 3]).unwrap();
            z.add_array("x_test", &images(1)).unwrap();
            z.add_array("y_test", &array![9_u8]).unwrap();
        };
        assert_eq!(complaint(both), "data d.npz: holds several sets of samples: x_train, x_test");
        let chosen = read_with(both, Source { images: Some("x_train".into()), ..Source::default() }).unwrap();
        assert_eq!(chosen.labels, Some(vec![1, 2, 3]));
        let crossed = Source { images: Some("x_train".into()), labels: Some("y_test".into()), ..Source::default() };
        assert_eq!(read_with(both, crossed).unwrap_err(), "data d.npz: has 3 samples but 1 labels in member y_test");
    }

    #[test]
    fn a_file_without_samples_lists_what_it_has() {
        let message = complaint(|z| z.add_array("weights", &array![1.0_f32, 2.0]).unwrap());
        assert_eq!(message, "data d.npz: has no member named images, x, data, x_test, x_train, only weights (float32 [2])");
        let named = Source { images: Some("pictures".into()), ..Source::default() };
        let message = read_with(|z| z.add_array("x", &images(1)).unwrap(), named).unwrap_err();
        assert_eq!(message, "data d.npz: has no readable member pictures, only x (uint8 [1, 2, 2, 3])");
    }

    #[test]
    fn a_nan_is_found_with_its_sample() {
        let message = complaint(|z| z.add_array("x", &array![[0.0_f32, 1.0], [2.0, f32::NAN]]).unwrap());
        assert_eq!(message, "data d.npz: member x holds NaN in sample 1");
    }

    #[test]
    fn empty_and_odd_members_are_refused() {
        assert!(complaint(|z| z.add_array("x", &Array2::<f32>::zeros((0, 3))).unwrap()).contains("[0, 3] holds no samples"));
        assert!(complaint(|z| z.add_array("x", &array![1_i32]).unwrap()).contains("member x holds int32"));
        let one_hot = |z: &mut NpzWriter<File>| {
            z.add_array("x", &images(2)).unwrap();
            z.add_array("y", &array![[0_u8, 1], [1, 0]]).unwrap();
        };
        assert!(complaint(one_hot).contains("labels in member y are of shape [2, 2]"));
        let negative = |z: &mut NpzWriter<File>| {
            z.add_array("x", &images(2)).unwrap();
            z.add_array("y", &array![0_i32, -1]).unwrap();
        };
        assert!(complaint(negative).contains("label -1 of sample 1"));
    }

    #[test]
    fn a_file_that_is_no_archive_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.npz");
        std::fs::write(&path, b"\x93NUMPY and so on").unwrap();
        assert!(read(&path, &Source::default()).unwrap_err().to_string().ends_with("is not an npz file"));
        assert!(matches!(read(&dir.path().join("none.npz"), &Source::default()), Err(Error::Io { action: "read", .. })));
    }

    fn with_raw_member(header: &str, body: &[u8]) -> Result<Npz> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.npz");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("classes.npy", options).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(body).unwrap();
        zip.start_file("x.npy", options).unwrap();
        array![1.0_f32].write_npy(&mut zip).unwrap();
        zip.finish().unwrap();
        read(&path, &Source { images: Some("classes".into()), ..Source::default() })
    }

    #[test]
    fn unicode_structured_and_oversized_members_are_skipped_not_read() {
        for header in [
            "{'descr': '<U10', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "nonsense",
        ] {
            let message = with_raw_member(header, &[0; 40]).unwrap_err().to_string();
            assert!(message.ends_with("has no readable member classes, only x (float32 [1])"), "{header}: {message}");
        }
    }

    #[test]
    fn trailing_or_missing_bytes_are_damage_not_a_panic() {
        let message = with_raw_member("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 40]).unwrap_err().to_string();
        assert!(message.contains("member classes is damaged"), "{message}");
    }
}
