//! The documentation's configurations: every TOML block of the book and of the README parses and builds, and the page
//! on choosing a loss names everything there is, and nothing else.

use std::{collections::BTreeSet, fs, path::Path, result::Result, sync::Arc};

use candle_core::{DType, Device};
use dml_loss::*;
use phi::SquaredEuclidean;
use serde::de::DeserializeOwned;

type Any = Box<dyn std::error::Error>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The Markdown files of the book, and the READMEs of the workspace and of this crate.
fn pages() -> Result<Vec<(String, String)>, Any> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs")];
    let mut files = vec![root().join("README.md"), root().join("crates/dml-loss/README.md")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "md") => files.push(path),
                false => {}
            }
        }
    }
    for file in files {
        pages.push((file.display().to_string(), fs::read_to_string(&file)?));
    }
    Ok(pages)
}

/// The code blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    let after = text.split(opening.as_str()).skip(1);
    after.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block)).collect()
}

#[test]
fn every_toml_block_is_valid_and_every_objective_builds() -> Result<(), Any> {
    let mut objectives = 0;
    for (page, text) in pages()? {
        for block in blocks(&text, "toml") {
            let table: toml::Table = block.parse().map_err(|e| format!("{page}: {e}\n{block}"))?;
            if !table.contains_key("loss") {
                continue;
            }
            let spec: ObjectiveSpec = toml::from_str(block).map_err(|e| format!("{page}: {e}\n{block}"))?;
            let built = spec.build(Some(Arc::new(SquaredEuclidean)), DType::F32, &Device::Cpu);
            built.map_err(|e| format!("{page}: {e}\n{block}"))?;
            objectives += 1;
        }
    }
    assert!(objectives >= 8, "only {objectives} objectives in the documentation");
    Ok(())
}

/// The names that a specification takes, from its own message for a wrong one, without the aliases in CamelCase.
fn names<T: DeserializeOwned>() -> Result<BTreeSet<String>, Any> {
    let Err(error) = toml::from_str::<T>("name = \"no such name\"") else {
        return Err("a wrong name was taken".into());
    };
    let message = error.to_string();
    let (_, list) = message.split_once("expected one of ").ok_or(message.clone())?;
    let quoted = list.split('`').skip(1).step_by(2);
    Ok(quoted.filter(|name| !name.contains(char::is_uppercase)).map(str::to_owned).collect())
}

/// The quoted names in the first column of the tables under a heading.
fn first_column(text: &str, heading: &str) -> BTreeSet<String> {
    let under = text.split_once(&format!("\n## {heading}\n")).map_or("", |(_, rest)| rest);
    let under = under.split_once("\n## ").map_or(under, |(section, _)| section);
    let cells = under.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_page_on_losses_names_all_there_are() -> Result<(), Any> {
    let page = fs::read_to_string(root().join("docs/choose-a-loss.md"))?;
    for (heading, names) in [
        ("All losses", names::<LossSpec>()?),
        ("Distances", names::<DistanceSpec>()?),
        ("Miners", names::<MinerSpec>()?),
        ("Reducers", names::<ReducerSpec>()?),
        ("Regularizers", names::<RegularizerSpec>()?),
    ] {
        assert!(names.len() >= 5, "{heading}: {names:?}");
        assert_eq!(first_column(&page, heading), names, "{heading}: left the page, right the code");
    }
    Ok(())
}
