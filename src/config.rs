//! The config: [`raw`] is what the user typed, [`check`] holds every rule, [`spec`] is what may be built.
//!
//! All of it is pure and runs on the caller's thread. Nothing here opens a file, touches a logger or knows KVM.
mod check;
mod error;
mod hint;
mod json;
pub mod raw;
mod shown;
pub mod spec;

pub use check::check;
pub use error::ConfigError;

use serde::Deserialize;
use spec::VmSpec;

/// The longest text in bytes that is read as a config.
const MAX_BYTES: usize = 4 << 20;

/// Reads a config and checks all of it.
///
/// # Errors
/// The first mistake in it, with its place, the rule and the way out.
pub fn parse(json: &str) -> Result<VmSpec, ConfigError> {
    check(&read(json)?)
}

/// Reads a config without checking more than keys and types, for callers that change it before [`check`].
///
/// # Errors
/// The first mistake in syntax, keys or types.
pub fn read(json: &str) -> Result<raw::VmConfig, ConfigError> {
    if json.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge {
            bytes: json.len(),
            limit: MAX_BYTES,
        });
    }
    let tree: json::Tree = serde_json::from_str(json)?;
    Ok(raw::VmConfig::deserialize(tree)?)
}

/// The JSON Schema (2020-12) of what [`read`] accepts, with a description of each key.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::VmConfig).to_value()
}

#[cfg(test)]
mod tests;
