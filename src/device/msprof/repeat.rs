//! Several inferences in one table: which row belongs to which, and one list with the medians of their times.

use std::collections::{BTreeMap, HashMap};

use super::table::Row;

/// What one inference does, and how long each step takes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OneInference {
    /// Operators in order of their start; times are medians, `start_us` counts from the inference's first operator.
    pub rows: Vec<Row>,
    /// Inferences that the medians are of.
    pub counted: usize,
    /// Whether a first inference was left out as warm-up.
    pub warm_up_left_out: bool,
    /// Rows that are in fewer than half of the inferences, or in one that is not complete.
    pub odd: Vec<Row>,
}

/// Makes one list of operators out of the repetitions in `rows`; from three on, the first is warm-up and left out.
///
/// Repetitions are told by Infer ID or Step Id, else by the sequence of names and shapes that returns, else (operators of several
/// streams overtake each other) by how often most operators occur.
pub fn one_inference(rows: &[Row]) -> OneInference {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    if rows.iter().all(|r| r.start_us.is_some()) {
        order.sort_by(|&a, &b| rows[a].start_us.unwrap_or_default().total_cmp(&rows[b].start_us.unwrap_or_default()));
    }
    let rows: Vec<&Row> = order.iter().map(|&i| &rows[i]).collect();
    let operators = operators(&rows);
    let of = by_id(&rows).or_else(|| by_period(&operators)).or_else(|| by_count(&operators)).unwrap_or_else(|| vec![Some(0); rows.len()]);
    let total = of.iter().flatten().max().map_or(0, |last| last + 1);
    let first = usize::from(total >= 3);
    let counted = total - first;

    let mut begin: BTreeMap<usize, (usize, f64)> = BTreeMap::new();
    let mut seen: HashMap<(usize, usize), usize> = HashMap::new();
    let mut steps: BTreeMap<(usize, usize), Vec<Step>> = BTreeMap::new();
    let mut odd: Vec<usize> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let Some(inference) = of[at] else {
            odd.push(at);
            continue;
        };
        let (rank, _) = *begin.entry(inference).and_modify(|b| b.0 += 1).or_insert((0, row.start_us.unwrap_or_default()));
        let nth = seen.entry((inference, operators[at])).and_modify(|n| *n += 1).or_insert(0);
        let offset = row.start_us.map(|s| s - begin[&inference].1);
        steps.entry((operators[at], *nth)).or_default().push(Step { inference, at, rank: rank as f64, offset });
    }
    let mut kept: Vec<(f64, Row)> = Vec::new();
    for steps in steps.values() {
        let used: Vec<&Step> = steps.iter().filter(|s| s.inference >= first).collect();
        let Some(example) = used.first().filter(|_| used.len() * 2 >= counted) else {
            odd.extend(steps.iter().map(|s| s.at));
            continue;
        };
        let of = |figure: &dyn Fn(&Step) -> Option<f64>| median(used.iter().filter_map(|s| figure(s)).collect());
        let row = Row {
            start_us: of(&|s| s.offset),
            duration_us: of(&|s| Some(rows[s.at].duration_us)).unwrap_or_default(),
            core_us: of(&|s| rows[s.at].core_us),
            cycles: of(&|s| rows[s.at].cycles),
            ..rows[example.at].clone()
        };
        kept.push((of(&|s| Some(s.rank)).unwrap_or_default(), row));
    }
    kept.sort_by(|(a, x), (b, y)| match (x.start_us, y.start_us) {
        (Some(s), Some(t)) => s.total_cmp(&t).then(a.total_cmp(b)),
        _ => a.total_cmp(b),
    });
    odd.sort_unstable();
    OneInference {
        rows: kept.into_iter().map(|(_, row)| row).collect(),
        counted,
        warm_up_left_out: first > 0,
        odd: odd.into_iter().map(|at| rows[at].clone()).collect(),
    }
}

/// An operator in one inference.
struct Step {
    inference: usize,
    /// Row, in order of start.
    at: usize,
    /// Place in its inference.
    rank: f64,
    /// Start from its inference's first row, µs.
    offset: Option<f64>,
}

/// A number for each row, the same where name, inputs and outputs are.
fn operators(rows: &[&Row]) -> Vec<usize> {
    let mut known = HashMap::new();
    rows.iter()
        .map(|r| {
            let next = known.len();
            *known.entry((r.name.as_str(), &r.input_shapes, &r.output_shapes)).or_insert(next)
        })
        .collect()
}

/// The inference of each row, by the profiler's number of it.
fn by_id(rows: &[&Row]) -> Option<Vec<Option<usize>>> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let of = rows
        .iter()
        .map(|r| {
            let next = known.len();
            r.inference.as_deref().map(|id| *known.entry(id).or_insert(next))
        })
        .collect();
    (known.len() > 1).then_some(of)
}

/// The inference of each row where the whole list is one sequence over and over, the last time perhaps not to its end.
fn by_period(operators: &[usize]) -> Option<Vec<Option<usize>>> {
    let n = operators.len();
    // Knuth, Morris and Pratt's borders: the longest start of the list that is also its end gives the shortest period.
    let mut border = vec![0; n];
    for i in 1..n {
        let mut k = border[i - 1];
        while k > 0 && operators[i] != operators[k] {
            k = border[k - 1];
        }
        border[i] = k + usize::from(operators[i] == operators[k]);
    }
    let period = n - border.last()?;
    (period * 2 <= n).then(|| (0..n).map(|i| Some(i / period).filter(|&k| k < n / period)).collect())
}

/// The inference of each row where at least half of the operators occur equally often; the others by where they stand.
fn by_count(operators: &[usize]) -> Option<Vec<Option<usize>>> {
    let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, &operator) in operators.iter().enumerate() {
        places.entry(operator).or_default().push(at);
    }
    let mut often: BTreeMap<usize, usize> = BTreeMap::new();
    for list in places.values() {
        *often.entry(list.len()).or_default() += 1;
    }
    let (&times, &agreed) = often.iter().max_by_key(|(_, agreed)| **agreed)?;
    if times < 2 || agreed * 2 < places.len() {
        return None;
    }
    let regular = |list: &&Vec<usize>| list.len() == times;
    let begin: Vec<usize> = (0..times).map(|k| places.values().filter(regular).map(|list| list[k]).min().unwrap_or(0)).collect();
    let mut of: Vec<Option<usize>> = (0..operators.len()).map(|at| begin.partition_point(|&b| b <= at).checked_sub(1)).collect();
    for list in places.values().filter(regular) {
        for (k, &at) in list.iter().enumerate() {
            of[at] = Some(k);
        }
    }
    Some(of)
}

/// The middle figure, or the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { Some(figures[middle]) } else { Some((figures.get(middle.checked_sub(1)?)? + figures[middle]) / 2.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows 10 µs apart, from "name:duration" or "name:duration:inference".
    fn rows(text: &str) -> Vec<Row> {
        let row = |(i, word): (usize, &str)| {
            let mut part = word.split(':');
            let name = part.next().unwrap().to_string();
            let duration_us = part.next().unwrap().parse().unwrap();
            Row {
                name,
                duration_us,
                inference: part.next().map(str::to_string),
                start_us: Some(1000.0 + 10.0 * i as f64),
                ..Row::default()
            }
        };
        text.split_whitespace().enumerate().map(row).collect()
    }

    fn told(found: &OneInference) -> String {
        found.rows.iter().map(|r| format!("{}:{}", r.name, r.duration_us)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_inference_stays_as_it_is() {
        let found = one_inference(&rows("a:3 b:4 c:5"));
        assert_eq!((told(&found).as_str(), found.counted, found.warm_up_left_out), ("a:3 b:4 c:5", 1, false));
        assert_eq!(found.rows.iter().map(|r| r.start_us.unwrap()).collect::<Vec<_>>(), [0.0, 10.0, 20.0]);
        assert_eq!(one_inference(&[]), OneInference::default());
    }

    #[test]
    fn of_two_inferences_the_mean_counts_and_of_more_the_median_without_the_first() {
        let two = one_inference(&rows("a:3 b:4 a:5 b:4"));
        assert_eq!((told(&two).as_str(), two.counted), ("a:4 b:4", 2));
        let four = one_inference(&rows("a:90 b:90 a:3 b:9 a:1 b:8 a:2 b:7"));
        assert_eq!((told(&four).as_str(), four.counted, four.warm_up_left_out), ("a:2 b:8", 3, true));
    }

    #[test]
    fn an_inference_cut_off_at_the_end_does_not_count() {
        let found = one_inference(&rows("a:3 b:4 c:5 a:3 b:4 c:5 a:99"));
        assert_eq!((told(&found).as_str(), found.counted, found.odd.len()), ("a:3 b:4 c:5", 2, 1));
    }

    #[test]
    fn inferences_by_number_may_lack_rows_and_have_others() {
        let found = one_inference(&rows("a:1:7 b:2:7 init:50:7 a:1:8 a:1:9 b:4:9 a:1:10 b:6:10 z:1:10"));
        assert_eq!((told(&found).as_str(), found.counted), ("a:1 b:5", 3));
        assert_eq!(found.odd.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["init", "z"]);
    }

    #[test]
    fn streams_that_overtake_each_other_still_repeat() {
        let found = one_inference(&rows("init:9 a:1 b:2 c:3 a:1 c:3 b:2 a:1 b:2 c:3"));
        assert_eq!((told(&found).as_str(), found.counted, found.odd.len()), ("a:1 b:2 c:3", 2, 1));
    }

    #[test]
    fn an_operator_that_runs_twice_in_an_inference_is_two_rows() {
        assert_eq!(told(&one_inference(&rows("a:1 b:2 a:3 c:9 a:1 b:2 a:3 c:9"))), "a:1 b:2 a:3 c:9");
    }

    #[test]
    fn rows_out_of_order_are_sorted_by_their_start() {
        let mut list = rows("a:1 b:2 c:3");
        list.swap(0, 2);
        assert_eq!(told(&one_inference(&list)), "a:1 b:2 c:3");
    }
}
