#!/bin/sh
# Gathers the texts for the fit in a directory, with a folder for each kind:
#   corpus.sh DIR && go run ./estimator/internal/fit -out estimator/internal/quick/weights.go DIR
# It downloads and unpacks packages of Debian 12 without installing them, and copies
# the sources of a Go and a Node installation.
set -eu
dir=$(mkdir -p "$1" && cd "$1" && pwd)
mkdir -p "$dir/.packages" && cd "$dir/.packages"
for p in installation-guide-amd64 gnome-user-docs wordpress-l10n python-django-doc python3-django fortunes-zh iso-codes \
	manpages manpages-dev manpages-cs manpages-da manpages-de manpages-el manpages-es manpages-fi manpages-fr \
	manpages-hu manpages-it manpages-ja manpages-nl manpages-pl manpages-pt-br manpages-ro manpages-ru manpages-vi manpages-zh
do
	apt-get download -q "$p"
	dpkg -x "$p"_*.deb unpacked
done
cd unpacked/usr/share
for lang in ar bg bn ca cs da de el es et eu fa fi fr gl gu he hi hr hu id it ja ka kn ko lt lv mr my nl pa pl pt ro ru si sl sr sv sw ta te th tr uk ur vi zh_CN zh_TW
do
	to=$dir/$lang
	mkdir -p "$to"
	cp -r "help/$lang" "$to/help" 2>/dev/null || :
	cp -r "doc/installation-guide-amd64/$lang" "$to/guide" 2>/dev/null || :
	[ -d "man/$lang" ] && mkdir -p "$to/man" && cp -rL "man/$lang/." "$to/man"
	for mo in $(find . ../lib -path "*languages/$lang*.mo" -o -path "*languages/admin-$lang*.mo" -o -path "*/locale/$lang/*.mo"); do
		cp -L "$mo" "$to/$(echo "$mo" | tr / _)"
	done
	[ "$lang" != zh_CN ] || cp -r man/zh_TW "$dir/zh_TW/man" 2>/dev/null || :
done
mkdir -p "$dir/english/man" && cp -rL man/man[2-7] "$dir/english/man"
cp -r help/C "$dir/english/help"
cp -r doc/installation-guide-amd64/en "$dir/english/guide"
mkdir -p "$dir/docs" "$dir/python" "$dir/go" "$dir/javascript" "$dir/json"
cp -r doc/python-django-doc "$dir/docs/django"
cp -r ../lib/python3 "$dir/python/"
cp -r "$(go env GOROOT)/src" "$dir/go/"
cp -r "$(dirname "$(readlink -f "$(command -v npm)")")/../" "$dir/javascript/"
find "$dir/javascript" "$dir/go" ./iso-codes -name '*.json' -size +1k | while read -r f; do cp "$f" "$dir/json/$(echo "$f" | tr / _)"; done
