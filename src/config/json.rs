//! From JSON text to [`super::raw`], with every mistake at its place. Pure; runs on the caller's thread.
//!
//! Text becomes a [`Tree`] first, which keeps doubled keys so that they can be refused; serde's derived code then
//! reads the tree. Reading by ourselves rather than with `serde_json::from_str` gives errors as data ([`Issue`]):
//! the path, the unknown key, the keys that are known there. It also refuses lists where objects belong, which
//! derived code accepts.
use super::shown::{join, printable, quoted};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor, value::StrDeserializer,
};
use serde::forward_to_deserialize_any;
use std::{collections::HashSet, fmt, vec};

/// A mistake and its place.
#[derive(Debug)]
pub(super) struct Issue {
    /// From the innermost step outwards.
    steps: Vec<Step>,
    pub(super) problem: Problem,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// What is wrong at the place of an [`Issue`].
#[derive(Debug)]
pub(super) enum Problem {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    DuplicateKey(String),
    WrongType {
        found: String,
        expected: String,
    },
}

impl Issue {
    fn new(problem: Problem) -> Self {
        Self {
            steps: Vec::new(),
            problem,
        }
    }

    fn under(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The place, like `drives[1].drive_id`; empty for the whole config.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Key(key) => path = join(&path, &printable(key)),
                Step::Index(index) => path = format!("{path}[{index}]"),
            }
        }
        path
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.problem)
    }
}

impl std::error::Error for Issue {}

impl serde::de::Error for Issue {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(Problem::WrongType {
            found: "not right".to_owned(),
            expected: text.to_string(),
        })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Problem::WrongType {
            found: name_found(found),
            expected: name_expected(&expected.to_string()),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, allowed: &'static [&'static str]) -> Self {
        Self::new(Problem::WrongType {
            found: quoted(found),
            expected: name_words(allowed),
        })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Problem::UnknownKey {
            key: key.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Problem::MissingKey(key))
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::new(Problem::DuplicateKey(key.to_owned()))
    }
}

/// A value in the words of a message.
fn name_found(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => format!("the number {value:?}"),
        Unexpected::Str(text) => format!("the string {}", quoted(text)),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        other => other.to_string(),
    }
}

/// What serde's derived code expects, in the words of JSON; "u64" stays, as which numbers fit depends on the place.
fn name_expected(expected: &str) -> String {
    match expected {
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        "path string" => "a path (a string)".to_owned(),
        text if text.starts_with("struct ") => "an object".to_owned(),
        text => text.to_owned(),
    }
}

/// `"a", "b" or "c"`.
fn name_words(words: &[&str]) -> String {
    let mut words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() {
        last
    } else {
        format!("{} or {last}", words.join(", "))
    }
}

/// JSON that still has its doubled keys.
#[derive(Debug)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Unsigned(value) => Unexpected::Unsigned(*value),
            Self::Signed(value) => Unexpected::Signed(*value),
            Self::Float(value) => Unexpected::Float(*value),
            Self::Text(text) => Unexpected::Str(text),
            Self::List(_) => Unexpected::Seq,
            Self::Object(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Object(entries))
    }
}

impl<'de> Deserializer<'de> for Tree {
    type Error = Issue;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Issue> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Unsigned(value) => visitor.visit_u64(value),
            Self::Signed(value) => visitor.visit_i64(value),
            Self::Float(value) => visitor.visit_f64(value),
            Self::Text(text) => visitor.visit_string(text),
            Self::List(items) => visitor.visit_seq(Items {
                items: items.into_iter().enumerate(),
            }),
            Self::Object(entries) => {
                let mut seen = HashSet::with_capacity(entries.len());
                if let Some((key, _)) = entries.iter().find(|(key, _)| !seen.insert(key.as_str())) {
                    return Err(Issue::new(Problem::DuplicateKey(key.clone())));
                }
                visitor.visit_map(Entries {
                    entries: entries.into_iter(),
                    value: None,
                })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Issue> {
        match self {
            Self::Null => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Issue> {
        match self {
            Self::Object(_) => self.deserialize_any(visitor),
            other => Err(Issue::invalid_type(other.unexpected(), &visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Issue> {
        let choice = match self {
            Self::Text(word) => Choice { word, value: None },
            Self::Object(mut entries) if entries.len() == 1 => match entries.pop() {
                Some((word, value)) => Choice {
                    word,
                    value: Some(value),
                },
                None => return Err(Issue::invalid_type(Unexpected::Map, &visitor)),
            },
            other => {
                return Err(Issue::new(Problem::WrongType {
                    found: name_found(other.unexpected()),
                    expected: name_words(words),
                }));
            }
        };
        visitor.visit_enum(choice)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// A list on its way to derived code.
struct Items {
    items: std::iter::Enumerate<vec::IntoIter<Tree>>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Issue;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Issue> {
        let Some((index, item)) = self.items.next() else {
            return Ok(None);
        };
        let item = seed
            .deserialize(item)
            .map_err(|issue| issue.under(Step::Index(index)))?;
        Ok(Some(item))
    }
}

/// An object on its way to derived code, with the value whose key was just read.
struct Entries {
    entries: vec::IntoIter<(String, Tree)>,
    value: Option<(String, Tree)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Issue;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Issue> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Issue> = key.as_str().into_deserializer();
        let name = seed.deserialize(name)?;
        self.value = Some((key, value));
        Ok(Some(name))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Issue> {
        let (key, value) = self
            .value
            .take()
            .ok_or_else(|| Issue::custom("a value after its key"))?;
        seed.deserialize(value).map_err(|issue| issue.under(Step::Key(key)))
    }
}

/// One of several words, perhaps with a value: `"pty"` or `{"file": "x"}`.
struct Choice {
    word: String,
    value: Option<Tree>,
}

impl<'de> EnumAccess<'de> for Choice {
    type Error = Issue;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Issue> {
        let word: StrDeserializer<'_, Issue> = self.word.as_str().into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice {
    type Error = Issue;

    fn unit_variant(self) -> Result<(), Issue> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(Issue::new(Problem::WrongType {
                found: "an object".to_owned(),
                expected: format!("just {}, which takes no value", quoted(&self.word)),
            })),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Issue> {
        let Some(value) = self.value else {
            return Err(Issue::new(Problem::WrongType {
                found: quoted(&self.word),
                expected: format!("an object that says which: {{{}: …}}", quoted(&self.word)),
            }));
        };
        seed.deserialize(value)
            .map_err(|issue| issue.under(Step::Key(self.word)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Issue> {
        Err(Issue::invalid_type(Unexpected::TupleVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Issue> {
        Err(Issue::invalid_type(Unexpected::StructVariant, &visitor))
    }
}
