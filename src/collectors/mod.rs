//! Collectors, one module each.

mod census;
mod container;
mod domain;
pub(crate) mod host;
mod mount_usage;
#[cfg(test)]
mod testing;

use crate::collector::Entry;

/// Every collector, in the order of `docs/metrics`.
pub const ALL: &[Entry] = &joined();

const COUNT: usize = host::ALL.len() + container::ALL.len() + domain::ALL.len() + census::ALL.len();

const fn joined() -> [Entry; COUNT] {
    let layers = [host::ALL, container::ALL, domain::ALL, census::ALL];
    let mut all = [host::ALL[0]; COUNT];
    let (mut layer, mut at) = (0, 0);
    while layer < layers.len() {
        let mut i = 0;
        while i < layers[layer].len() {
            all[at] = layers[layer][i];
            at += 1;
            i += 1;
        }
        layer += 1;
    }
    all
}
