//! Layer patterns: `"*"`, `conv2d_*`, `first`, `last`, an exact name, or a list of these.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::graph::layer::Layer;

/// One or more patterns; a layer matches if any of them does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    /// Whether a pattern picks a layer. `first` and `last` pick the layers at the network's ends, whatever their names.
    pub fn picks(pattern: &str, layer: &Layer) -> bool {
        match pattern {
            "first" if layer.first => true,
            "last" if layer.last => true,
            exact if exact == layer.name => true,
            glob => matcher(glob).is_ok_and(|m| m.is_match(&layer.name)),
        }
    }

    /// Whether any pattern picks a layer.
    pub fn pick(&self, layer: &Layer) -> bool {
        self.0.iter().any(|p| Self::picks(p, layer))
    }

    /// The patterns that pick none of the layers.
    pub fn idle<'a>(&'a self, layers: &[Layer]) -> Vec<&'a str> {
        self.0.iter().filter(|p| !layers.iter().any(|l| Self::picks(p, l))).map(String::as_str).collect()
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
