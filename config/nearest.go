package config

// Nearest returns which of the known names is meant by one that was mistyped; "" if
// none reads nearly the same.
func Nearest(name string, known []string) string {
	nearest, least := "", min((len(name)+1)/3, 2)+1
	for _, other := range known {
		if d := distance(name, other); d < least {
			nearest, least = other, d
		}
	}
	return nearest
}

// distance counts the letters that are missing, surplus or others (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // of the beginnings of b, for a beginning of a
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
