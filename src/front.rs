//! Dominance, fronts, crowding, hypervolume and the knee. All objectives are losses: smaller is better.

/// Whether `a` is at least as good as `b` everywhere and better somewhere.
pub fn dominates<const N: usize>(a: &[f64; N], b: &[f64; N]) -> bool {
    a.iter().zip(b).all(|(x, y)| x <= y) && a.iter().zip(b).any(|(x, y)| x < y)
}

/// Indices of the points that no other dominates; of equal points the first.
pub fn front<const N: usize>(points: &[[f64; N]]) -> Vec<usize> {
    let beaten = |i: usize| points.iter().enumerate().any(|(j, p)| dominates(p, &points[i]) || (j < i && p == &points[i]));
    (0..points.len()).filter(|&i| !beaten(i)).collect()
}

/// Non-dominated rank of every point: 0 for the front, 1 for the front of the rest, and so on.
pub fn ranks<const N: usize>(points: &[[f64; N]]) -> Vec<usize> {
    let mut rank = vec![usize::MAX; points.len()];
    let mut left: Vec<usize> = (0..points.len()).collect();
    let mut level = 0;
    while !left.is_empty() {
        let now: Vec<usize> = left.iter().copied().filter(|&i| !left.iter().any(|&j| dominates(&points[j], &points[i]))).collect();
        now.iter().for_each(|&i| rank[i] = level);
        left.retain(|i| rank[*i] == usize::MAX);
        level += 1;
    }
    rank
}

/// Crowding distance of every point within its rank; infinite at the ends.
pub fn crowding<const N: usize>(points: &[[f64; N]], rank: &[usize]) -> Vec<f64> {
    let mut distance = vec![0.0_f64; points.len()];
    for level in 0..=rank.iter().copied().max().unwrap_or(0) {
        let mut members: Vec<usize> = (0..points.len()).filter(|&i| rank[i] == level).collect();
        #[expect(clippy::needless_range_loop, reason = "k is an objective, not a point")]
        for k in 0..N {
            members.sort_by(|&a, &b| points[a][k].total_cmp(&points[b][k]).then(a.cmp(&b)));
            let (Some(&first), Some(&last)) = (members.first(), members.last()) else { continue };
            let span = points[last][k] - points[first][k];
            distance[first] = f64::INFINITY;
            distance[last] = f64::INFINITY;
            if span > 0.0 {
                for w in members.windows(3) {
                    distance[w[1]] += (points[w[2]][k] - points[w[0]][k]) / span;
                }
            }
        }
    }
    distance
}

/// Area dominated by a two-objective front within a reference point.
pub fn hypervolume(points: &[[f64; 2]], reference: [f64; 2]) -> f64 {
    let mut inside: Vec<[f64; 2]> = points.iter().copied().filter(|p| p[0] < reference[0] && p[1] < reference[1]).collect();
    inside.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let (mut area, mut ceiling) = (0.0, reference[1]);
    for p in inside {
        if p[1] < ceiling {
            area += (reference[0] - p[0]) * (ceiling - p[1]);
            ceiling = p[1];
        }
    }
    area
}

/// The knee of a two-objective front: the point farthest below the line between its ends, both axes scaled to 0..1.
pub fn knee(points: &[[f64; 2]]) -> Option<usize> {
    let bound = |k: usize, f: fn(f64, f64) -> f64, start: f64| points.iter().map(|p| p[k]).fold(start, f);
    let (low, high) = ([0, 1].map(|k| bound(k, f64::min, f64::INFINITY)), [0, 1].map(|k| bound(k, f64::max, f64::NEG_INFINITY)));
    let scaled = |p: &[f64; 2]| (0..2).map(|k| if high[k] > low[k] { (p[k] - low[k]) / (high[k] - low[k]) } else { 0.0 }).sum::<f64>();
    (0..points.len()).min_by(|&a, &b| scaled(&points[a]).total_cmp(&scaled(&points[b])).then(a.cmp(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_keeps_one_of_equal_points_and_drops_the_dominated() {
        let points = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [2.0, 2.0], [3.0, 3.0]];
        assert_eq!(front(&points), vec![0, 1, 2]);
        assert_eq!(ranks(&points), vec![0, 0, 0, 0, 1]);
    }

    #[test]
    fn hypervolume_of_a_staircase_by_hand() {
        // (4-1)(4-3) + (4-2)(3-2) + (4-3)(2-1) = 3 + 2 + 1
        assert_eq!(hypervolume(&[[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.5, 3.5]], [4.0, 4.0]), 6.0);
        assert_eq!(hypervolume(&[[5.0, 0.0]], [4.0, 4.0]), 0.0);
    }

    #[test]
    fn crowding_prefers_the_ends_and_the_lonely() {
        let points = [[0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [4.0, 0.0]];
        let c = crowding(&points, &ranks(&points));
        assert!(c[0].is_infinite() && c[3].is_infinite() && c[2] > c[1]);
    }

    #[test]
    fn the_knee_is_the_corner() {
        assert_eq!(knee(&[[0.0, 10.0], [1.0, 1.0], [10.0, 0.0]]), Some(1));
        assert_eq!(knee(&[]), None);
    }
}
