//! Laws of splits, samplers and the IDX format, over random labels and sizes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};

use dml_data::{
    Batches, ClassBalanced, FixedTriplets, Hierarchical, HierarchicalConfig, MPerClass, MPerClassConfig,
    PByK, Sampler, Sequential, Shard, ShardOf, Shuffled, Tail, TrainSize,
    format::idx::{self, Idx},
    split,
};
use proptest::prelude::*;

/// Labels of 2 to 6 classes, each with 2 to 12 images, in a scrambled order; class numbers have gaps.
fn labels() -> impl Strategy<Value = Vec<i64>> {
    proptest::collection::vec(2..=12usize, 2..=6)
        .prop_map(|counts| {
            counts.iter().enumerate().flat_map(|(c, &n)| vec![3 * c as i64 + 1; n]).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn counts(labels: &[i64], indices: &[usize]) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    indices.iter().for_each(|&i| *counts.entry(labels[i]).or_default() += 1);
    counts
}

fn is_partition(n: usize, split: &split::Split) -> bool {
    let ascending = |part: &[usize]| part.windows(2).all(|w| w[0] < w[1]);
    let all: BTreeSet<usize> = split.train.iter().chain(&split.test).copied().collect();
    ascending(&split.train)
        && ascending(&split.test)
        && split.train.len() + split.test.len() == n
        && all == (0..n).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_closed_set_split_keeps_the_share_of_every_class(labels in labels(), seed: u64, share in 0.05..0.95f64) {
        let all: Vec<usize> = (0..labels.len()).collect();
        let split = split::closed_set(&labels, TrainSize::Fraction(share), seed).unwrap();
        prop_assert!(is_partition(labels.len(), &split));
        let (whole, train) = (counts(&labels, &all), counts(&labels, &split.train));
        for (class, n) in whole {
            let expected = ((share * n as f64).round() as usize).clamp(1, n - 1);
            prop_assert_eq!(train[&class], expected);
        }
        prop_assert_eq!(&split, &split::closed_set(&labels, TrainSize::Fraction(share), seed).unwrap());
    }

    #[test]
    fn a_zero_shot_split_shares_no_class(labels in labels(), seed: u64) {
        let split = split::zero_shot_drawn(&labels, 1, seed).unwrap();
        prop_assert!(is_partition(labels.len(), &split));
        let (train, test) = (counts(&labels, &split.train), counts(&labels, &split.test));
        prop_assert_eq!(train.len(), 1);
        prop_assert!(train.keys().all(|class| !test.contains_key(class)));
        prop_assert_eq!(&split, &split::zero_shot_drawn(&labels, 1, seed).unwrap());
    }

    #[test]
    fn batches_have_m_images_of_each_of_p_classes(
        labels in labels(), seed: u64, per_class in 1..=8usize, epoch in 0..5u64, skip in 0..2usize,
    ) {
        // Every image but the first `skip`, so that a class never falls below one image.
        let indices: Vec<usize> = (skip.min(1)..labels.len()).collect();
        let members = counts(&labels, &indices);
        prop_assume!(per_class == 1 || members.values().all(|&n| n > 1));
        let config = MPerClassConfig { classes: 2, per_class, batches_per_epoch: Some(9) };
        let sampler = MPerClass::new(&labels, &indices, config, seed).unwrap();
        for batch in sampler.epoch(epoch) {
            prop_assert!(batch.iter().all(|i| indices.contains(i)));
            let classes: Vec<i64> = batch.iter().map(|&i| labels[i]).collect();
            prop_assert_eq!(classes.len(), 2 * per_class);
            prop_assert!(classes.chunks(per_class).all(|c| c.iter().all(|&l| l == c[0])));
            prop_assert_ne!(classes[0], classes[per_class]);
            for chunk in batch.chunks(per_class) {
                let mut times = BTreeMap::<usize, usize>::new();
                chunk.iter().for_each(|&i| *times.entry(i).or_default() += 1);
                let n = members[&labels[chunk[0]]];
                prop_assert!(times.values().all(|&t| t == per_class / n || t == per_class.div_ceil(n)));
            }
        }
        prop_assert_eq!(sampler.epoch(epoch), sampler.epoch(epoch));
    }

    #[test]
    fn resuming_anywhere_continues_as_if_never_stopped(labels in labels(), seed: u64, stop in 0..20usize) {
        let indices: Vec<usize> = (0..labels.len()).collect();
        let config = MPerClassConfig { classes: 2, per_class: 2, batches_per_epoch: None };
        let samplers = || -> [Box<dyn Sampler>; 2] {
            [
                Box::new(MPerClass::new(&labels, &indices, config, seed).unwrap()),
                Box::new(Shuffled::new(&indices, 3, Tail::Keep, seed).unwrap()),
            ]
        };
        for (once, again) in samplers().into_iter().zip(samplers()) {
            let mut batches = Batches::new(once);
            batches.by_ref().take(stop).for_each(drop);
            let mut resumed = Batches::resume(again, batches.state()).unwrap();
            for _ in 0..12 {
                prop_assert_eq!(batches.next(), resumed.next());
                prop_assert_eq!(batches.state(), resumed.state());
            }
        }
    }

    #[test]
    fn a_shuffled_epoch_has_every_image_once(n in 1..40usize, batch in 1..12usize, seed: u64, epoch in 0..4u64) {
        let indices: Vec<usize> = (0..n).map(|i| 7 * i).collect();
        let sampler = Shuffled::new(&indices, batch, Tail::Keep, seed).unwrap();
        let batches = sampler.epoch(epoch);
        prop_assert_eq!(batches.len(), sampler.batches_per_epoch());
        let mut seen: Vec<usize> = batches.concat();
        seen.sort_unstable();
        prop_assert_eq!(seen, indices.clone());
        if batch <= n {
            let batches = Shuffled::new(&indices, batch, Tail::Drop, seed).unwrap().epoch(epoch);
            prop_assert_eq!(batches.len(), n / batch);
            prop_assert!(batches.iter().all(|b| b.len() == batch));
        }
    }

    #[test]
    fn what_is_written_is_read_again(n in 0..5usize, h in 1..6usize, w in 1..6usize, seed: u64, packed: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(if packed { "x.gz" } else { "x" });
        let data = (0..n * h * w).map(|i| (seed.rotate_left(i as u32) & 255) as u8).collect();
        let idx = Idx { dims: vec![n, h, w], data };
        idx::write(&path, &idx).unwrap();
        prop_assert_eq!(idx::read_images(&path).unwrap(), idx);
    }
}

#[test]
fn epochs_differ_and_so_do_seeds() {
    let indices: Vec<usize> = (0..50).collect();
    let sampler = |seed| Shuffled::new(&indices, 50, Tail::Keep, seed).unwrap();
    assert_ne!(sampler(0).epoch(0), sampler(0).epoch(1));
    assert_ne!(sampler(0).epoch(0), sampler(1).epoch(0));
}

#[test]
fn a_state_of_another_sampler_is_refused() {
    let sampler = Shuffled::new(&[0, 1], 1, Tail::Keep, 0).unwrap();
    let state = dml_data::SamplerState { epoch: 0, batch: 2 };
    assert_eq!(
        Batches::resume(sampler, state).unwrap_err().to_string(),
        "Batches::resume: `state.batch` is 2, expected below 2, the batches per epoch; resume with the sampler \
         that was saved"
    );
}

/// One of every kind over all images, batches of at most 4.
fn every_sampler(labels: &[i64], seed: u64) -> Vec<Box<dyn Sampler>> {
    let all: Vec<usize> = (0..labels.len()).collect();
    let groups: Vec<i64> = labels.iter().map(|class| class % 2).collect();
    let m = MPerClassConfig { classes: 2, per_class: 2, batches_per_epoch: Some(5) };
    let h = HierarchicalConfig { groups: 1, classes: 2, per_class: 2, batches_per_epoch: Some(5) };
    let shuffled = || Shuffled::new(&all, 4, Tail::Drop, seed).unwrap();
    vec![
        Box::new(MPerClass::new(labels, &all, m, seed).unwrap()),
        Box::new(PByK::new(labels, &all, 2, 2, seed).unwrap()),
        Box::new(Hierarchical::new(labels, &groups, &all, h, seed).unwrap()),
        Box::new(FixedTriplets::new(labels, &all, 10, 3, seed).unwrap()),
        Box::new(ClassBalanced::new(labels, &all, 4, seed).unwrap()),
        Box::new(Sequential::new(&all, 4).unwrap()),
        Box::new(shuffled()),
        Box::new(Shard::new(shuffled(), ShardOf::Images, 1, 2).unwrap()),
        Box::new(Shard::new(shuffled(), ShardOf::Batches, 0, 1).unwrap()),
    ]
}

/// Every sampler that deals from decks, over all images.
fn samplers_of_decks(
    labels: &[i64],
    seed: u64,
    size: usize,
    per_class: usize,
    batches: usize,
) -> Vec<Box<dyn Sampler>> {
    let all: Vec<usize> = (0..labels.len()).collect();
    let classes = counts(labels, &all).len();
    let groups: Vec<i64> = labels.iter().map(|class| class / 6).collect(); // two classes each
    let m = MPerClassConfig { classes: size.min(classes), per_class, batches_per_epoch: Some(batches) };
    let h = HierarchicalConfig { groups: 1, classes: size, per_class, batches_per_epoch: Some(batches) };
    vec![
        Box::new(MPerClass::new(labels, &all, m, seed).unwrap()),
        Box::new(PByK::new(labels, &all, size.min(classes), per_class, seed).unwrap()),
        Box::new(ClassBalanced::new(labels, &all, size, seed).unwrap()),
        Box::new(Hierarchical::new(labels, &groups, &all, h, seed).unwrap()),
    ]
}

/// A thousand images in epochs of a single batch: a new deck each epoch would be a draw with replacement, and leave
/// 1000·exp(−2.16) = 115 images unseen after 2,160 draws.
#[test]
fn short_epochs_see_every_image() {
    let labels: Vec<i64> = (0..1000).map(|i| i % 10).collect();
    let all: Vec<usize> = (0..1000).collect();
    let config = MPerClassConfig { classes: 10, per_class: 8, batches_per_epoch: Some(1) };
    let sampler = MPerClass::new(&labels, &all, config, 7).unwrap();
    let mut times = vec![0; 1000];
    for epoch in 0..27 {
        sampler.epoch(epoch).concat().into_iter().for_each(|i| times[i] += 1);
    }
    assert!(
        times.iter().all(|times| (2..=3).contains(times)),
        "{} unseen",
        times.iter().filter(|&&t| t == 0).count()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sampler_is_a_function_of_the_epoch_and_resumes_anywhere(labels in labels(), seed: u64, stop in 0..25usize) {
        for (sampler, again) in every_sampler(&labels, seed).into_iter().zip(every_sampler(&labels, seed)) {
            let what = format!("{sampler:?}");
            for epoch in [0, 1, 7, u64::MAX / 2] {
                let batches = sampler.epoch(epoch);
                prop_assert_eq!(batches.len(), sampler.batches_per_epoch(), "{}", &what);
                prop_assert!(batches.iter().all(|batch| !batch.is_empty()), "{}", &what);
                prop_assert!(batches.iter().flatten().all(|&i| i < labels.len()), "{}", &what);
                prop_assert_eq!(&batches, &again.epoch(epoch), "{}", &what);
            }
            let whole: Vec<Vec<usize>> = Batches::new(sampler).take(30).collect();
            let mut first = Batches::new(again);
            first.by_ref().take(stop).for_each(drop);
            let state = first.state();
            let fresh = every_sampler(&labels, seed).into_iter().find(|s| format!("{s:?}") == what).unwrap();
            let rest: Vec<Vec<usize>> = Batches::resume(fresh, state).unwrap().take(30 - stop).collect();
            prop_assert_eq!(&rest[..], &whole[stop..], "{}", &what);
        }
    }

    #[test]
    fn p_by_k_deals_every_class_equally_often(labels in labels(), seed: u64, p in 1..6usize, k in 1..4usize) {
        let all: Vec<usize> = (0..labels.len()).collect();
        let classes = counts(&labels, &all).len();
        prop_assume!(p <= classes);
        let sampler = PByK::new(&labels, &all, p, k, seed).unwrap();
        let epoch = sampler.epoch(3);
        for batch in &epoch {
            let in_batch = counts(&labels, batch);
            prop_assert_eq!(in_batch.len(), p);
            prop_assert!(in_batch.values().all(|&n| n == k));
        }
        let dealt = counts(&labels, &epoch.concat());
        prop_assert_eq!(dealt.len(), classes);
        prop_assert!(dealt.values().all(|&n| n == epoch.len() * p * k / classes));
    }

    #[test]
    fn all_images_of_a_class_are_seen_before_one_is_seen_again(
        labels in labels(), seed: u64, size in 1..9usize, per_class in 1..9usize, batches in 1..4usize,
    ) {
        let samplers = samplers_of_decks(&labels, seed, size, per_class, batches);
        for sampler in samplers {
            let what = format!("{sampler:?}");
            let mut dealt: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
            (0..40).flat_map(|epoch| sampler.epoch(epoch).concat()).for_each(|i| dealt.entry(labels[i]).or_default().push(i));
            for (class, images) in dealt {
                let n = labels.iter().filter(|&&label| label == class).count();
                for round in images.chunks(n) {
                    let different = round.iter().collect::<BTreeSet<_>>().len();
                    prop_assert_eq!(different, round.len(), "class {} of {}: {:?}", class, &what, &images);
                }
            }
        }
    }

    #[test]
    fn a_class_of_enough_images_has_none_twice_in_a_batch(
        labels in labels(), seed: u64, per_class in 1..7usize, batches in 1..4usize,
    ) {
        for sampler in samplers_of_decks(&labels, seed, 2, per_class, batches).into_iter().take(2) {
            for batch in (0..30).flat_map(|epoch| sampler.epoch(epoch)) {
                for (class, there) in counts(&labels, &batch) {
                    let n = labels.iter().filter(|&&label| label == class).count();
                    let images = batch.iter().filter(|&&i| labels[i] == class).collect::<BTreeSet<_>>();
                    prop_assert_eq!(images.len(), n.min(there), "{:?} {:?}", &sampler, &batch);
                }
            }
        }
    }

    #[test]
    fn classes_are_dealt_equally_often_to_within_one_from_the_first_epoch_on(
        labels in labels(), seed: u64, size in 1..9usize, per_class in 1..4usize, batches in 1..4usize,
    ) {
        let of_all: Vec<i64> = counts(&labels, &(0..labels.len()).collect::<Vec<_>>()).into_keys().collect();
        let all: Vec<usize> = (0..labels.len()).collect();
        let config = MPerClassConfig { classes: 2, per_class, batches_per_epoch: Some(batches) };
        let samplers: [(Box<dyn Sampler>, usize); 2] = [
            (Box::new(MPerClass::new(&labels, &all, config, seed).unwrap()), per_class),
            (Box::new(ClassBalanced::new(&labels, &all, size, seed).unwrap()), 1),
        ];
        for (sampler, hand) in samplers {
            let mut dealt: BTreeMap<i64, usize> = of_all.iter().map(|&class| (class, 0)).collect();
            for image in (0..20).flat_map(|epoch| sampler.epoch(epoch).concat()) {
                *dealt.get_mut(&labels[image]).unwrap() += 1;
                let (least, most) = (dealt.values().min().unwrap(), dealt.values().max().unwrap());
                prop_assert!(most - least <= hand, "{:?}", dealt);
            }
        }
    }

    #[test]
    fn a_hierarchical_batch_keeps_to_its_super_classes(labels in labels(), seed: u64) {
        let all: Vec<usize> = (0..labels.len()).collect();
        let groups: Vec<i64> = labels.iter().map(|class| class / 6).collect(); // two classes each
        let n = groups.iter().collect::<BTreeSet<_>>().len();
        let config = HierarchicalConfig { groups: n.min(2), classes: 2, per_class: 2, batches_per_epoch: Some(9) };
        for batch in Hierarchical::new(&labels, &groups, &all, config, seed).unwrap().epoch(1) {
            prop_assert_eq!(batch.len(), 4 * n.min(2));
            for part in batch.chunks(4) {
                prop_assert!(part.iter().all(|&i| groups[i] == groups[part[0]]));
                let there = counts(&labels, part).len();
                let whole = all.iter().filter(|&&i| groups[i] == groups[part[0]]);
                let classes = whole.map(|&i| labels[i]).collect::<BTreeSet<_>>().len();
                prop_assert_eq!(there, classes.min(2));
            }
        }
    }
}
