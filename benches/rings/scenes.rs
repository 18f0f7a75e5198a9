//! The lines of the table.
use crate::{Outcome, scene::Scene};
use coracle_ring3::order::Order;
use serde_json::json;
use std::path::Path;

/// Requests under way.
const DEPTHS: [u64; 3] = [1, 8, 32];

/// All of them, with their files in `folder`.
pub(crate) fn all(_folder: &Path, event_idx: bool) -> Outcome<Vec<Scene>> {
    let kinds = [("rng, 64 bytes", json!({ "entropy": {} }), 64, false)];
    let scenes = kinds.iter().flat_map(|(name, keys, bytes, write)| {
        DEPTHS.map(|depth| Scene {
            name,
            keys: keys.clone(),
            order: Order {
                depth,
                bytes: *bytes,
                write: *write,
                event_idx,
                ..Order::default()
            },
        })
    });
    Ok(scenes.collect())
}
