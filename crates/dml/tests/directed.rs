//! Directed retrieval: which cells a query shows, and what is trained.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use dml::task::{DirectedConfig, DirectedTask, Embedding, Hidden, Histograms, Pairs, Sample};
use dml::{Method, MlpConfig, Task, TrainConfig, Watch, train};
use dml_data::bundled;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn items(n: usize) -> Outcome<Histograms> {
    let indices: Vec<usize> = (0..n).map(|i| i * 37).collect();
    Ok(Histograms::of_ink(&bundled::mnist_5k()?, &indices)?)
}

/// The cells with points in each query.
fn shown(pairs: &Pairs) -> Outcome<Vec<BTreeSet<usize>>> {
    let cells = |row: Vec<f32>| row.iter().enumerate().filter(|(_, v)| **v > 0.0).map(|(j, _)| j).collect();
    Ok(pairs.queries.to_vec2::<f32>()?.into_iter().map(cells).collect())
}

fn draw(hidden: Hidden) -> Outcome<Vec<BTreeSet<usize>>> {
    shown(&Pairs::draw(&items(100)?, Sample { points: 400, hidden }, 5, &Device::Cpu)?)
}

fn union(sets: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    sets.iter().flatten().copied().collect()
}

#[test]
fn cells_are_hidden_from_one_query_or_from_all() -> Outcome<()> {
    let all = draw(Hidden::Nothing)?;
    let anew = draw(Hidden::Anew { cells: 24 })?;
    let same = draw(Hidden::Same { cells: 24, seed: 1 })?;
    let other = draw(Hidden::Same { cells: 24, seed: 2 })?;
    for ((all, anew), same) in all.iter().zip(&anew).zip(&same) {
        assert!(same.is_subset(all) && anew.len() <= 25 && same.len() <= 25);
    }
    // Together, queries show everything if cells are hidden anew, else never more than the 25 that are left.
    assert_eq!(union(&anew), union(&all));
    assert!(union(&same).len() <= 25 && union(&other).len() <= 25);
    assert_ne!(union(&same), union(&other));
    // What one query shows in a cell that is not hidden, it shows as if nothing were.
    let visible = union(&same);
    for (all, same) in all.iter().zip(&same) {
        assert_eq!(&all.intersection(&visible).copied().collect::<BTreeSet<_>>(), same);
    }
    Ok(())
}

#[test]
fn every_cell_hidden_is_an_error() -> Outcome<()> {
    for hidden in [Hidden::Anew { cells: 49 }, Hidden::Same { cells: 50, seed: 0 }] {
        let message = Pairs::draw(&items(3)?, Sample { points: 25, hidden }, 5, &Device::Cpu).unwrap_err();
        let message = message.to_string();
        let expected = format!("25 points with {} of 49 cells hidden", hidden.cells());
        assert!(message.contains(&expected), "{message}");
    }
    Ok(())
}

fn config(method: Method, embedding: Embedding) -> DirectedConfig {
    let sample = Sample { points: 25, hidden: Hidden::Same { cells: 24, seed: 3 } };
    DirectedConfig { method, query_first: true, embedding, sample, batch: 40, seed: 1 }
}

#[test]
fn a_problem_is_read_as_it_was_written() -> Outcome<()> {
    let mlp = MlpConfig { hidden: [8, 6], dim: 4 };
    for embedding in [Embedding::Nothing, Embedding::Shared(mlp), Embedding::Towers(mlp)] {
        let problem = config(Method::Separable, embedding);
        let text = toml::to_string(&problem)?;
        assert_eq!(toml::from_str::<DirectedConfig>(&text)?, problem, "{text}");
    }
    Ok(())
}

#[test]
fn embeddings_are_trained() -> Outcome<()> {
    let items = Arc::new(items(120)?);
    let mlp = MlpConfig { hidden: [32, 16], dim: 8 };
    for (embedding, networks) in
        [(Embedding::Nothing, 0), (Embedding::Shared(mlp), 1), (Embedding::Towers(mlp), 2)]
    {
        let problem = config(Method::DeepMahalanobis, embedding);
        let task = DirectedTask::new(items.clone(), problem, &Device::Cpu)?;
        let pairs = Pairs::draw(&items, problem.sample, 9, &Device::Cpu)?;
        let start = task.embed(&pairs)?;
        let same =
            |a: &Tensor, b: &Tensor| -> Outcome<bool> { Ok(a.to_vec2::<f32>()? == b.to_vec2::<f32>()?) };
        assert_eq!(networks == 0, same(&start.items, &pairs.items)?);
        // One network: the same row has the same embedding on either side.
        let mirrored =
            task.embed(&pairs.map_each(|_| Ok(pairs.items.clone()), |items| Ok(items.clone()))?)?;
        assert_eq!(networks < 2, same(&mirrored.queries, &mirrored.items)?);

        let parameters = task.parameters();
        let names: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), parameters.len());
        assert_eq!(names.iter().filter(|name| name.starts_with("encoder")).count(), 6 * networks);
        let gradients = task.loss(0)?.backward()?;
        for parameter in &parameters {
            assert!(gradients.get(&parameter.var).is_some(), "`{}` receives no gradient", parameter.name);
        }
        let before = start.mean_reciprocal_rank(task.generator().as_ref(), problem.side())?;
        train(&task, &TrainConfig { steps: 60, ..Default::default() }, &Watch::default())?;
        let after = task.embed(&pairs)?.mean_reciprocal_rank(task.generator().as_ref(), problem.side())?;
        assert!(after > before + 0.05, "{embedding:?}: MRR {before} before training, {after} after");
    }
    Ok(())
}
