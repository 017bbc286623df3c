//! A report with every kind of block and figure, to see what each is for and how it looks.
//! The numbers are made up.
//!
//! ```text
//! cargo run -p dml --example sample_report -- FOLDER
//! ```

use dml::report::{
    Axis, Bar, Bars, Cell, Column, Figure, Form, Group, ImageRow, Images, Lines, Mark, Panel, Panels, Point,
    Report, Scatter, Section, Series, Sharing, Table, Tile,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

const METHODS: [&str; 5] = [
    "Euclidean",
    "deep Mahalanobis",
    "max-affine",
    "deep divergence",
    "empirical Bregman (separable + ICNN)",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "sample-report".into());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };

    let mut results = Section::new("Retrieval");
    results
        .paragraph("Each row is a way to learn `D(x ‖ y)`; encoder, loss and budget are the same for all.");
    results.block(scores(&mut normal));
    results.block(Figure::new(
        "map-at-r",
        "MAP@R under the learned divergence, means and 95 % intervals over five seeds.",
        Bars { label: "MAP@R".into(), form: Form::ZoomedEach, groups: groups() },
    ));
    results.block(Figure::new(
        "map-at-r-zero",
        "The same from zero: how small the differences are.",
        Bars { label: "MAP@R".into(), form: Form::FromZero, groups: groups() },
    ));

    let mut training = Section::new("Training");
    training.block(Figure::new(
        "loss",
        "Triplet loss; the band is one standard deviation over seeds.",
        Lines { x: Axis::linear("step"), y: Axis::log("loss"), series: losses(&mut normal) },
    ));

    let mut geometry = Section::new("Geometry");
    geometry.block(Figure::new(
        "embedding",
        "Test embeddings, first two principal components.",
        embedding(&mut normal),
    ));
    geometry.block(Figure::new(
        "curvature",
        "φ″ along each coordinate: where it is high, small differences count.",
        Panels {
            x: Axis::linear("coordinate of the embedding"),
            y: Axis::linear("φ″"),
            sharing: Sharing::Shared,
            panels: (0..8).map(curvature).collect(),
        },
    ));
    geometry.block(Figure::new(
        "retrieved",
        "A query and its nearest neighbours with their divergences.",
        retrieved(),
    ));

    let mut again = Section::new("Run it again");
    again.paragraph("Same seed, same thread count, same bytes:");
    again.code("cargo xtask reproduce --suite quick --seeds 5\ncargo xtask bench --against pytorch");

    let report = Report {
        title: "A learned divergence on digits".into(),
        intro: vec![
            "Five ways to learn a distance together with the encoder, on 5,000 handwritten digits. \
             Every number here is made up: this page shows the form of a report, not a result."
                .into(),
        ],
        sections: vec![results, training, geometry, again],
    };
    for path in report.write(folder)? {
        println!("{}", path.display());
    }
    Ok(())
}

fn scores(normal: &mut impl FnMut() -> f64) -> Table {
    let mut columns: Vec<Column> =
        ["method", "protocol", "MAP@R", "P@1", "recall@8"].map(Column::from).into();
    columns.push(Column { name: "time, s".into(), decimals: Some(0) });
    let mut table = Table::new("Means ± half-widths of 95 % intervals over five seeds.", columns);
    for (protocol, base) in [("closed set", 0.95), ("zero-shot", 0.62)] {
        for (m, method) in METHODS.iter().chain(&["cosine"]).enumerate() {
            let mut score = |lift: f64| {
                Cell::estimate(
                    base + lift + 0.004 * (m % 5) as f64 + 0.001 * normal(),
                    0.004 + 0.001 * normal().abs(),
                )
            };
            let (map, p1, recall) = (score(0.0), score(0.01), score(0.02));
            let map = if m == 4 { map.best() } else { map };
            let time = if *method == "cosine" { Cell::missing() } else { Cell::number(31.4 + m as f64) };
            table.row([(*method).into(), protocol.into(), map, p1, recall, time]);
        }
    }
    table.note = Some("The best mean of each protocol is bold; – was not measured.".into());
    table
}

fn groups() -> Vec<Group> {
    let group = |label: &str, base: f64, half: f64| Group {
        label: label.into(),
        bars: (METHODS.iter().enumerate())
            .map(|(m, method)| Bar::new(*method, base + 0.006 * m as f64, half + 0.001 * m as f64))
            .collect(),
    };
    vec![group("closed set", 0.93, 0.004), group("zero-shot", 0.61, 0.012)]
}

fn losses(normal: &mut impl FnMut() -> f64) -> Vec<Series> {
    let series = |(m, method): (usize, &&str)| {
        let loss =
            |step: f64, noise: f64| (0.04 + 0.01 * m as f64 + (-step / 60.0).exp()) * (0.12 * noise).exp();
        let points: Vec<[f64; 2]> = (0..300).map(|s| [f64::from(s), loss(f64::from(s), normal())]).collect();
        let band: Vec<[f64; 2]> =
            (0..300).map(|s| [-1.5, 1.5].map(|side| loss(f64::from(s), side))).collect();
        Series::new(*method, points).with_band(band)
    };
    METHODS.iter().enumerate().map(series).collect()
}

fn embedding(normal: &mut impl FnMut() -> f64) -> Scatter {
    let point = |i: usize| {
        let class = i % 10;
        let angle = class as f64 * std::f64::consts::TAU / 10.0;
        let radius = if class.is_multiple_of(2) { 1.0 } else { 0.6 };
        Point::new(radius * angle.cos() + 0.12 * normal(), radius * angle.sin() + 0.12 * normal(), class)
    };
    Scatter {
        x: Axis::linear("first component"),
        y: Axis::linear("second component"),
        classes: (0..10).map(|c| c.to_string()).collect(),
        points: (0..1_000).map(point).collect(),
        ..Scatter::default()
    }
}

fn curvature(coordinate: usize) -> Panel {
    let middle = coordinate as f64 / 4.0 - 0.9;
    let curve = |sharpness: f64| {
        (0..60).map(move |i| {
            let x = f64::from(i) / 20.0 - 1.5;
            [x, 0.2 + sharpness / (sharpness * (x - middle)).cosh().powi(2)]
        })
    };
    Panel {
        title: format!("coordinate {coordinate}"),
        series: vec![
            Series::new("at the start", curve(0.5)),
            Series::new("learned", curve(1.0 + 0.3 * middle)),
        ],
    }
}

fn retrieved() -> Images {
    let ring = |width: f64, mark: Mark, label: String| Tile {
        width: 28,
        height: 28,
        pixels: (0..784)
            .map(|i| {
                let (x, y) = (f64::from(i % 28) - 13.5, f64::from(i / 28) - 13.5);
                (255.0 * (1.0 - ((x * x * width + y * y).sqrt() - 8.0).abs() / 2.5).clamp(0.0, 1.0)) as u8
            })
            .collect(),
        label,
        mark,
    };
    let row = |r: usize| ImageRow {
        label: format!("closest by D(x_i ‖ q), query {r}"),
        tiles: (0..9)
            .map(|i| match i {
                0 => ring(1.0 + 0.4 * r as f64, Mark::Query, "query".into()),
                i if i % 4 == 3 => ring(3.0, Mark::Miss, format!("{:.2}", 0.11 * i as f64)),
                i => ring(1.0 + 0.1 * (i + r) as f64, Mark::Hit, format!("{:.2}", 0.11 * i as f64)),
            })
            .collect(),
    };
    Images { rows: (0..3).map(row).collect() }
}
