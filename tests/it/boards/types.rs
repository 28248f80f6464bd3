//! Dashboards match Grafana's published TypeScript types, converted to a JSON schema.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::{Value, json};

use super::{boards, root};
use crate::support::{is_installed, skip};

#[test]
fn boards_match_grafana_types() {
    for program in ["npm", "node"] {
        if !is_installed(program) {
            return skip(program);
        }
    }
    let schema = match schema() {
        Ok(schema) => schema,
        // npm cannot download the packages without a network.
        Err(why) => return skip(&format!("npm's packages: {why}")),
    };
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut wrong = Vec::new();
    let boards = boards();
    for (name, board) in &boards {
        for error in validator.iter_errors(board) {
            wrong.push(format!("{name}: {}", deepest(&error)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The schema does reject an unknown option.
    let mut other = boards["host"].clone();
    other["panels"][1]["options"]["colourMode"] = json!("value");
    assert!(!validator.is_valid(&other));
}

/// The most deeply nested errors: for `anyOf` they belong to the intended alternative.
fn deepest(error: &ValidationError<'_>) -> String {
    fn leaves<'a>(error: &'a ValidationError<'a>, found: &mut Vec<&'a ValidationError<'a>>) {
        match error.kind() {
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context } => {
                context.iter().flatten().for_each(|it| leaves(it, found));
            }
            _ => found.push(error),
        }
    }
    let mut found = Vec::new();
    leaves(error, &mut found);
    let depth = |it: &&ValidationError<'_>| it.instance_path().as_str().matches('/').count();
    let most = found.iter().map(depth).max();
    found.retain(|it| Some(depth(it)) == most);
    let said: BTreeSet<_> = found
        .iter()
        .map(|it| format!("{}: {it}", it.instance_path()))
        .collect();
    said.into_iter().collect::<Vec<_>>().join("\n")
}

/// The JSON schema of `tests/it/boards/schema/board.ts`, built once, or the reason why npm cannot
/// install its generator.
fn schema() -> Result<Value, String> {
    let from = root().join("tests/it/boards/schema");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("board_schema");
    let sources = ["package.json", "package-lock.json", "board.ts"];
    let texts = sources.map(|name| fs::read_to_string(from.join(name)).unwrap());
    let (stamp, made) = (place.join("stamp"), place.join("schema.json"));
    let whole = texts.concat();
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&whole) {
        let _absent = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).unwrap();
        for (name, text) in sources.iter().zip(&texts) {
            fs::write(place.join(name), text).unwrap();
        }
        run(&place, "npm ci --ignore-scripts --no-audit --no-fund")?;
        run(
            &place,
            "node node_modules/ts-json-schema-generator/bin/ts-json-schema-generator.js \
             --path board.ts --type Board --expose none --no-type-check --out schema.json",
        )
        .unwrap();
        fs::write(stamp, whole).unwrap();
    }
    Ok(serde_json::from_str(&fs::read_to_string(made).unwrap()).unwrap())
}

fn run(dir: &Path, line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let said = command.args(words).current_dir(dir).output().unwrap();
    if said.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&said.stderr);
    Err(format!("{line}: {why}"))
}
