//! Which point is better than which, and the line that a coin reaches.
//!
//! ```text
//! bytes │ A                    A, B, C: fixed codecs. A coin that takes A for some pages and C for the
//!       │   ·                  others reaches each point of the line between them, so B is of no use,
//!       │     · B              and a policy earns its name only below the line.
//!       │   p   ·
//!       │         ·  C
//!       └───────────────── time
//! ```

/// What a page costs: its time and its memory. Less of each is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub us: f64,
    pub bytes: f64,
}

impl Point {
    /// True if nobody would take `other`: this one is no slower, no larger, and not the same.
    pub fn dominates(self, other: Point) -> bool {
        self.us <= other.us && self.bytes <= other.bytes && self != other
    }
}

/// The corners of the line, from the fastest of the points to the smallest.
pub fn line(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.us.total_cmp(&b.us).then(a.bytes.total_cmp(&b.bytes)));
    let mut corners: Vec<Point> = Vec::new();
    for point in sorted {
        if corners.last().is_some_and(|last| last.bytes <= point.bytes) {
            continue;
        }
        // A corner on or above the line from the one before it to this point is none.
        while let [.., a, b] = corners[..]
            && (b.us - a.us) * (point.bytes - a.bytes) <= (point.us - a.us) * (b.bytes - a.bytes)
        {
            corners.pop();
        }
        corners.push(point);
    }
    corners
}

/// The bytes that the line reaches in so much time; none in less than its fastest corner takes.
pub fn bytes_at(corners: &[Point], us: f64) -> Option<f64> {
    let after = corners.partition_point(|corner| corner.us <= us);
    let before = corners.get(after.checked_sub(1)?)?;
    let Some(next) = corners.get(after) else {
        return Some(before.bytes);
    };
    let part = (us - before.us) / (next.us - before.us);
    Some(before.bytes + part * (next.bytes - before.bytes))
}

/// The place of the fastest of `points` that is no larger than `limit`.
pub fn fastest(points: &[Point], limit: Point) -> Option<usize> {
    let no_larger = (0..points.len()).filter(|at| points[*at].bytes <= limit.bytes);
    no_larger.min_by(|a, b| points[*a].us.total_cmp(&points[*b].us))
}

/// The place of the smallest of `points` that is no slower than `limit`.
pub fn smallest(points: &[Point], limit: Point) -> Option<usize> {
    let no_slower = (0..points.len()).filter(|at| points[*at].us <= limit.us);
    no_slower.min_by(|a, b| points[*a].bytes.total_cmp(&points[*b].bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: f64, bytes: f64) -> Point {
        Point { us, bytes }
    }

    #[test]
    fn a_point_is_dominated_by_what_is_no_worse_in_both() {
        let point = at(5.0, 1500.0);
        for (other, dominates) in [
            (at(4.0, 1400.0), true),
            (at(5.0, 1400.0), true),
            (at(4.0, 1500.0), true),
            (at(5.0, 1500.0), false),
            (at(4.0, 1501.0), false),
            (at(5.1, 1000.0), false),
        ] {
            assert_eq!(other.dominates(point), dominates, "{other:?}");
        }
    }

    #[test]
    fn the_line_leaves_out_what_a_coin_beats() {
        let a = at(2.0, 2000.0);
        let (above, below) = (at(4.0, 1700.0), at(4.0, 1400.0));
        let c = at(8.0, 1000.0);
        let slower_and_larger = at(9.0, 1200.0);
        let points = [c, slower_and_larger, above, a];
        assert_eq!(line(&points), [a, c]);
        assert_eq!(
            line(&[c, slower_and_larger, above, a, below]),
            [a, below, c]
        );
        // On the line: a coin does as well.
        assert_eq!(line(&[a, at(5.0, 1500.0), c]), [a, c]);
        // Equally fast: the larger one is of no use, whichever comes first.
        assert_eq!(line(&[at(2.0, 2500.0), a, c]), [a, c]);
        assert_eq!(line(&[a, at(2.0, 2500.0), c]), [a, c]);
        assert!(line(&[]).is_empty());
    }

    #[test]
    fn a_line_is_straight_between_its_corners_and_ends_with_them() {
        let corners = [at(2.0, 2000.0), at(4.0, 1400.0), at(8.0, 1000.0)];
        for (us, bytes) in [
            (1.9, None),
            (2.0, Some(2000.0)),
            (3.0, Some(1700.0)),
            (4.0, Some(1400.0)),
            (7.0, Some(1100.0)),
            (8.0, Some(1000.0)),
            (20.0, Some(1000.0)),
        ] {
            assert_eq!(bytes_at(&corners, us), bytes, "{us}");
        }
        assert_eq!(bytes_at(&[], 1.0), None);
    }

    #[test]
    fn the_best_at_the_same_memory_and_at_the_same_speed() {
        let points = [at(2.0, 2000.0), at(4.0, 1400.0), at(8.0, 1000.0)];
        let policy = at(5.0, 1300.0);
        assert_eq!(fastest(&points, policy), Some(2));
        assert_eq!(smallest(&points, policy), Some(1));
        // As large as one, as fast as one: those count.
        assert_eq!(fastest(&points, at(1.0, 2000.0)), Some(0));
        assert_eq!(smallest(&points, at(8.0, 900.0)), Some(2));
        assert_eq!(fastest(&points, at(9.0, 900.0)), None);
        assert_eq!(smallest(&points, at(1.0, 900.0)), None);
    }
}
