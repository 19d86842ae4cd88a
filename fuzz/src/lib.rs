//! What the targets share.

use std::fs;
use std::path::Path;

use green_api_bridge::fuzzing::Target;

/// Puts the seeds beside what earlier runs found.
pub fn lay_seeds(target: &Target) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    fs::create_dir_all(&folder).expect("a folder for the corpus");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed).expect("a file in the corpus");
    }
}
