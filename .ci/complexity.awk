# Reads the output of gocognit ("46 cluster (*session).serve cluster/session.go:53:1")
# and fails for each function whose cognitive complexity is above max, unless a line
# of its doc comment states the number and the reason:
#
#	// Cognitive complexity 24: each case is one message of the protocol.
#
# The number has to be the measured one, so that the comment stays true. A comment on
# a function that is no longer above max fails, too.

{
	complexity = $1 + 0
	name = $0
	gsub(/^[0-9]+ [^ ]+ | [^ ]+$/, "", name)
	if (split($NF, position, ":") < 3) {
		fail("cannot read \"" $0 "\": want complexity, package, function and position")
		next
	}
	functions++
	file = position[1]
	if (file != loaded) load(file)
	at = file ":" position[2] ": " name

	stated = ""
	for (n = position[2] - 1; line[n] ~ /^\/\//; n--) {
		if (line[n] ~ /^\/\/ Cognitive complexity [0-9]+: ./) {
			stated = line[n]
			gsub(/[^0-9]*Cognitive complexity |:.*/, "", stated)
		}
	}
	if (complexity > max && stated == "")
		fail(at " has cognitive complexity " complexity ", above " max ": split it, or say why not in its comment: \"// Cognitive complexity " complexity ": <why>\"")
	else if (complexity > max && stated != complexity)
		fail(at " has cognitive complexity " complexity ", but its comment says " stated)
	else if (complexity <= max && stated != "")
		fail(at " has cognitive complexity " complexity ", not above " max ": delete the comment that excuses it")
}

END {
	if (!functions) fail("gocognit has listed no function")
	exit failed
}

function load(file,    n) {
	delete line
	for (n = 1; (getline line[n] < file) > 0; n++) continue
	close(file)
	loaded = file
}

function fail(message) {
	print message
	failed = 1
}
