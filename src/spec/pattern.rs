//! Layer patterns: `"*"`, `conv2d_*`, `first`, `last`, an exact name, or a list of these.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::graph::layer::Layer;

/// One or more patterns; a layer matches if any of them does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    /// Which of a network's layers the patterns pick. A pattern that is a layer's whole name picks that layer alone, however
    /// much it looks like a glob; `first` and `last` pick the layers at the network's ends.
    ///
    /// # Errors
    /// The pattern that picks none.
    pub fn pick(&self, layers: &[Layer]) -> Result<Vec<bool>, &str> {
        let mut picked = vec![false; layers.len()];
        for pattern in &self.0 {
            let named = layers.iter().any(|l| l.name == *pattern);
            let glob = matcher(pattern).ok();
            let fits = |l: &Layer| match pattern.as_str() {
                name if named => l.name == name,
                "first" => l.first,
                "last" => l.last,
                _ => glob.as_ref().is_some_and(|g| g.is_match(&l.name)),
            };
            if !layers.iter().any(fits) {
                return Err(pattern);
            }
            picked.iter_mut().zip(layers).for_each(|(p, l)| *p |= fits(l));
        }
        Ok(picked)
    }
}

fn matcher(glob: &str) -> Result<GlobMatcher, globset::Error> {
    GlobBuilder::new(glob).literal_separator(false).build().map(|g| g.compile_matcher())
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Patterns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a layer pattern such as \"*\", first or conv2d_1, or a list of them")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![v.to_string()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Patterns, A::Error> {
                let mut all = Vec::new();
                while let Some(pattern) = seq.next_element::<String>()? {
                    all.push(pattern);
                }
                if all.is_empty() { Err(de::Error::custom("the list of layers is empty")) } else { Ok(Patterns(all)) }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
