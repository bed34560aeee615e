//! The tables published with HAWQ-V3 (Yao et al., ICML 2021): layers at 8 or 4 bits within a latency.

use serde_json::Value;

use super::*;

/// One network: which layers choose together, and for 8 and 4 bits its loss and milliseconds by layer.
struct Network {
    groups: Vec<Vec<usize>>,
    loss: Vec<[f64; 2]>,
    ms: Vec<[f64; 2]>,
}

fn network(name: &str, tied: bool) -> Network {
    let tables: Value = serde_json::from_str(include_str!("../hawqv3.json")).unwrap();
    let net = &tables["networks"][name];
    let column = |key: &str| net[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<f64>>();
    let pairs = |a: Vec<f64>, b: Vec<f64>| a.into_iter().zip(b).map(|(a, b)| [a, b]).collect::<Vec<[f64; 2]>>();
    let trace = column("trace");
    let loss = pairs(column("delta_int8"), column("delta_int4")).iter().zip(&trace).map(|(d, t)| d.map(|d| d * t)).collect();
    let ms = pairs(column("latency_int8_ms"), column("latency_int4_ms"));
    let mut groups: Vec<Vec<usize>> = (0..trace.len()).map(|l| vec![l]).collect();
    if tied {
        for pair in net["tied_layers"].as_array().unwrap() {
            let [a, b] = [0, 1].map(|k| pair[k].as_u64().unwrap() as usize);
            let moved = std::mem::take(&mut groups[b]);
            groups[a].extend(moved);
        }
        groups.retain(|g| !g.is_empty());
    }
    Network { groups, loss, ms }
}

impl Network {
    fn problem(&self) -> Problem {
        let sum = |table: &[[f64; 2]], group: &[usize]| [0, 1].map(|o| group.iter().map(|&l| table[l][o]).sum::<f64>()).to_vec();
        Problem {
            options: vec![2; self.groups.len()],
            damage: self.groups.iter().map(|g| sum(&self.loss, g)).collect(),
            terms: self.groups.iter().enumerate().map(|(a, g)| Term { axes: vec![a], ms: sum(&self.ms, g), bytes: vec![] }).collect(),
            fixed_ms: 0.0,
            fixed_bytes: 0.0,
        }
    }

    fn limit(&self, fraction: f64) -> f64 {
        let all = |o: usize| self.ms.iter().map(|m| m[o]).sum::<f64>();
        all(1) + fraction * (all(0) - all(1))
    }

    /// Bits of every layer.
    fn bits(&self, options: &[u16]) -> String {
        let of = |layer: usize| self.groups.iter().position(|g| g.contains(&layer)).unwrap();
        (0..self.ms.len()).map(|l| if options[of(l)] == 0 { '8' } else { '4' }).collect()
    }
}

/// Branch and bound for two options an axis: layers by ascending price of a millisecond, bound of the relaxation.
struct Branch {
    /// Milliseconds saved and damage done by the second option.
    steps: Vec<[f64; 2]>,
    best: f64,
}

impl Branch {
    fn least(problem: &Problem, limit: f64) -> f64 {
        let start = problem.price(&vec![0; problem.options.len()]);
        let step = |a: usize| [problem.terms[a].ms[0] - problem.terms[a].ms[1], problem.damage[a][1] - problem.damage[a][0]];
        let mut steps: Vec<[f64; 2]> = (0..problem.options.len()).map(step).collect();
        assert!(steps.iter().flatten().all(|x| *x > 0.0));
        steps.sort_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])));
        let mut branch = Self { steps, best: f64::INFINITY };
        branch.go(0, start.ms - limit, 0.0);
        start.damage + branch.best
    }

    fn go(&mut self, at: usize, missing: f64, damage: f64) {
        if missing <= 0.0 {
            self.best = self.best.min(damage);
            return;
        }
        let (mut rest, mut bound) = (missing, damage);
        for [saved, done] in &self.steps[at..] {
            let share = (rest / saved).min(1.0);
            (rest, bound) = (rest - share * saved, bound + share * done);
            if rest <= 0.0 {
                break;
            }
        }
        if rest <= 0.0 && bound < self.best {
            let [saved, done] = self.steps[at];
            self.go(at + 1, missing - saved, damage + done);
            self.go(at + 1, missing, damage);
        }
    }
}

#[test]
fn resnet_18_has_the_optima_of_full_enumeration() {
    let cases = [
        (0.75, false, 0.079965, "8888888848888484884"),
        (0.75, true, 0.079965, "8888888848888484884"),
        (0.50, false, 0.201470, "8884888848884444844"),
        (0.50, true, 0.202674, "8888848848884484844"),
        (0.25, false, 0.403498, "8884848448444444444"),
        (0.25, true, 0.460424, "8884848444444444444"),
    ];
    for (fraction, tied, loss, bits) in cases {
        let network = network("ResNet18", tied);
        let best = network.problem().best(Some(network.limit(fraction)), None, EFFORT).unwrap();
        assert!(best.exact && best.solution.ms <= network.limit(fraction));
        assert!((best.solution.damage - loss).abs() < 5e-7, "{fraction} {tied} {}", best.solution.damage);
        assert_eq!(network.bits(&best.solution.options), bits);
    }
}

#[test]
fn resnet_18_has_the_published_ends() {
    let network = network("ResNet18", false);
    let front = network.problem().front(0.0, EFFORT);
    let (fast, mild) = (&front.solutions[0], &front.solutions[front.solutions.len() - 1]);
    let near = |a: f64, b: f64| (a - b).abs() < 5e-7;
    assert!(near(fast.ms, 3.148672) && near(fast.damage, 1.307713) && near(mild.ms, 5.343687) && near(mild.damage, 0.004258));
}

#[test]
fn resnet_50_agrees_with_branch_and_bound_to_the_last_digits() {
    for tied in [false, true] {
        let network = network("ResNet50", tied);
        let problem = network.problem();
        for fraction in [0.9, 0.75, 0.5, 0.25, 0.1] {
            let limit = network.limit(fraction);
            let best = problem.best(Some(limit), None, EFFORT).unwrap();
            assert!(best.exact && best.solution.ms <= limit);
            let least = Branch::least(&problem, limit);
            assert!((best.solution.damage - least).abs() < 1e-12, "{fraction} {tied} {} {least}", best.solution.damage);
        }
    }
}

#[test]
fn resnet_50_has_a_thinned_front_within_a_thousandth_of_the_optimum() {
    let network = network("ResNet50", true);
    let problem = network.problem();
    let front = problem.front(0.0, Effort { labels: 10_000, states: 4096 });
    for fraction in [0.75, 0.5, 0.25] {
        let near = front.solutions.iter().rev().find(|s| s.ms <= network.limit(fraction)).unwrap();
        let best = problem.best_within(Some(network.limit(fraction)), None, EFFORT).unwrap();
        assert!(near.damage >= best.damage && near.damage <= 1.001 * best.damage);
    }
}
